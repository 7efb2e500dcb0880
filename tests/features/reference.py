"""The features by their definitions alone, as slow and plain as can be: what the kernel is held against."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from vigil.domains import windows as w
from vigil.domains.spec import DAY_MS, Domain


@dataclass
class Record:
    """One event as an entity remembers it."""

    ts: int
    event_id: str
    values: dict[str, int]
    carried: dict[str, float]
    label: int = -1


@dataclass
class Reference:
    """Applies events and labels in order and gives each event's features, from the definitions."""

    domain: Domain
    records: dict[tuple[str, str], list[Record]] = field(default_factory=dict)
    answers: dict[str, list[float]] = field(default_factory=dict)
    contents: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)

    def event(self, values: dict[str, Any]) -> list[float]:
        event_id = values["event_id"]
        if event_id in self.answers:
            same = self.contents[event_id] == values
            return self.answers[event_id] if same else [0.0] * len(self.answers[event_id])
        self.contents[event_id] = values
        quanta = {n.name: round(values[n.name] * n.per_unit) for n in self.domain.numbers}
        done: dict[str, float] = {}
        for feature in self.domain.features:
            done[feature.name] = self._feature(feature, values, quanta, done)
        for entity in self.domain.entities:
            mine = self.records.setdefault((entity.name, values[entity.name]), [])
            newest = max((r.ts for r in mine), default=values["ts"])
            if values["ts"] <= newest - self.domain.grace_days * DAY_MS:
                continue
            carried = {name: round(done[name] * 1e6) / 1e6 for name in entity.carries}
            at = sum(r.ts <= values["ts"] for r in mine)
            mine.insert(at, Record(values["ts"], event_id, quanta, carried, self.labels.get(event_id, -1)))
        self.answers[event_id] = list(done.values())
        return self.answers[event_id]

    def label(self, event_id: str, label: int) -> None:
        self.labels[event_id] = label
        for records in self.records.values():
            for record in records:
                if record.event_id == event_id:
                    record.label = label

    def _window(self, feature: Any, values: dict[str, Any]) -> list[Record]:
        mine = self.records.get((feature.of_entity, values[feature.of_entity]), [])
        newest = max([values["ts"], *(r.ts for r in mine)])
        end = values["ts"] - feature.delay_days * DAY_MS
        floor = newest - self.domain.keep_days(feature.of_entity) * DAY_MS
        start = max(end - feature.window_days * DAY_MS, floor)
        return [r for r in mine if start < r.ts <= end]

    def _feature(self, f: Any, values: dict[str, Any], quanta: dict[str, int], done: dict[str, float]) -> float:
        result = self._value(f, values, quanta, done)
        if result is None:
            own = getattr(f, "or_current", False)
            return quanta[f.number] / self.domain.number(f.number).per_unit if own else f.empty
        return float(result)

    def _value(self, f: Any, values: dict[str, Any], quanta: dict[str, int], done: dict[str, float]) -> float | None:
        ts = values["ts"]
        unit = self.domain.number(f.number).per_unit if hasattr(f, "number") else 1.0
        if isinstance(f, w.Value):
            return quanta[f.number] / unit
        if isinstance(f, w.Weekend):
            return (ts // DAY_MS + 3) % 7 >= 5
        if isinstance(f, w.Night):
            return ts // 3_600_000 % 24 <= f.last_hour
        if isinstance(f, w.Ratio):
            return done[f.numerator] / done[f.denominator] if done[f.denominator] else None
        if isinstance(f, w.Difference):
            return done[f.left] - done[f.right]
        records = self._window(f, values)
        if isinstance(f, w._Labels):
            return self._labels(f, records, ts)
        past = [r.values[f.number] for r in records] if hasattr(f, "number") else []
        current = [quanta[f.number]] if f.current and hasattr(f, "number") else []
        if isinstance(f, w.Count):
            return len(records) + f.current
        if isinstance(f, w.SinceLast):
            return (ts - records[-1].ts) / 1000 if records else None
        if isinstance(f, w.TrimmedMean):
            return self._trimmed(past, f) / unit if past else None
        if isinstance(f, w.Last):
            return past[-1] / unit if past else None
        if isinstance(f, w._Above):
            return self._above(f, records, past, current, done[f.usual] * unit, unit, ts)
        return self._statistic(f, records, past + current, quanta[f.number], unit, ts)

    def _statistic(
        self, f: Any, records: list[Record], xs: list[int], value: int, unit: float, ts: int
    ) -> float | None:
        if not xs:
            return None
        if isinstance(f, w.Sum):
            return sum(xs) / unit
        if isinstance(f, w.Mean):
            return sum(xs) / len(xs) / unit
        if isinstance(f, w.Max):
            return max(xs) / unit
        if isinstance(f, w.Min):
            return min(xs) / unit
        mean = sum(xs) / len(xs)
        if isinstance(f, w.Slope):
            days = [(r.ts - ts) / DAY_MS for r in records] + [0.0] * (len(xs) - len(records))
            middle = sum(days) / len(days)
            spread = sum((d - middle) ** 2 for d in days)
            cross = sum((d - middle) * (x - mean) for d, x in zip(days, xs, strict=True))
            return cross / spread / unit if spread > 0 else None
        if len(xs) < 2:
            return None
        deviation = math.sqrt(sum((x - mean) ** 2 for x in xs) / (len(xs) - 1))
        if isinstance(f, w.Std):
            return deviation / unit
        assert isinstance(f, w.ZScore)
        return (value - mean) / deviation if deviation > 0 else None

    def _trimmed(self, past: list[int], f: w.TrimmedMean) -> float:
        mean = sum(past) / len(past)
        for _ in range(f.rounds):
            kept = [x for x in past if x <= f.times * mean]
            if not kept:
                break
            mean = sum(kept) / len(kept)
        return mean

    def _above(
        self, f: Any, records: list[Record], past: list[int], current: list[int], usual: float, unit: float, ts: int
    ) -> float | None:
        xs = past + current
        if isinstance(f, w.LargestRatio):
            return max(xs) / usual if xs and usual > 0 else None
        if isinstance(f, w.LargestExcess):
            return (max(xs) - usual) / unit if xs and usual > 0 else None
        high = [x > f.times * usual for x in xs]
        if isinstance(f, w.CountAbove):
            return sum(high)
        if isinstance(f, w.ShareAbove):
            return sum(high) / len(xs) if xs else None
        assert isinstance(f, w.AgeOfFirstAbove)
        return next(((ts - r.ts) / DAY_MS for r, h in zip(records, high, strict=False) if h), None)

    def _labels(self, f: Any, records: list[Record], ts: int) -> float | None:
        def counts(r: Record) -> bool:
            return r.label == 1 and (not f.unexplained_by or r.carried[f.unexplained_by] <= f.at_most)

        if isinstance(f, w.LabelCount):
            return sum(map(counts, records))
        if isinstance(f, w.LabelRate):
            return sum(map(counts, records)) / len(records) if records else None
        known = [r for r in records if r.label >= 0]
        if isinstance(f, w.LastLabel):
            return known[-1].label if known else None
        if isinstance(f, w.AgeOfLabel):
            found = [r for r in known if (counts(r) if f.positive else r.label == 0)]
            return (ts - found[0 if f.first else -1].ts) / DAY_MS if found else None
        streak = []
        for r in reversed(known):
            if r.label == 0:
                break
            streak += [r] if counts(r) else []
        if isinstance(f, w.Streak):
            return len(streak)
        if isinstance(f, w.LeastOfStreak):
            return min([f.empty, *(r.carried[f.unexplained_by] for r in streak)])
        assert isinstance(f, w.AgeOfStreak)
        return (ts - streak[-1].ts) / DAY_MS if streak else None
