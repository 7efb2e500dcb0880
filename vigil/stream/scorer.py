"""Records in, decision records out: what every stream does with a batch, wherever it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vigil.engine import Engine
from vigil.errors import InvalidEvent, InvalidInput


@dataclass
class Outcome:
    """What became of a batch of n records.

    Attributes:
        places: of each decision, the place of its event in the batch; ascending.
        records: decision records, JSON.
        blocked: indices into `records` of those the policy stops.
        refused: why an event could not be scored, by its place in the batch.
    """

    places: Sequence[int] = ()
    records: list[bytes] = field(default_factory=list)
    blocked: list[int] = field(default_factory=list)
    refused: dict[int, InvalidInput] = field(default_factory=dict)


class Scorer:
    """Scores batches of JSON events: one decoding pass, one call of the kernel, one of the model, one of the policy.

    Args:
        engine: of the events' domain.
        with_features: whether the records shall hold the features, without which they cannot be replayed.
    """

    def __init__(self, engine: Engine, with_features: bool = True) -> None:
        self.engine, self.with_features = engine, with_features
        self._block = engine.domain.policy.actions[-1]

    def decode(self, values: Sequence[bytes | None]) -> list[Any]:
        """The event of each JSON text; in place of one that is wrong, the InvalidInput that says why."""
        return self.engine.schema.decode_each(values)

    def score(self, values: Sequence[bytes | None], events: Sequence[Any], now_ms: int) -> Outcome:
        """Decision records of events, which then count in the feature state.

        Args:
            values: JSON of one event each.
            events: what `decode` made of it.
            now_ms: the time, epoch milliseconds UTC: what is too far ahead of it is refused.
        """
        if set(map(type, events)) == {self.engine.schema.struct}:
            try:
                return self._score_all(events, values, range(len(events)), {}, now_ms)
            except InvalidEvent:  # a value that cannot be: find whose, and score the others
                pass
        places, refused = list[int](), dict[int, InvalidInput]()
        for place, event in enumerate(events):
            failure = event if isinstance(event, InvalidInput) else self.engine.refusal(event, now_ms)
            if failure:
                refused[place] = failure
            else:
                places.append(place)
        good = [events[place] for place in places]
        return self._score_all(good, [values[place] for place in places], places, refused, now_ms)

    def _score_all(
        self,
        events: Sequence[object],
        values: Sequence[bytes | None],
        places: Sequence[int],
        refused: dict[int, InvalidInput],
        now_ms: int,
    ) -> Outcome:
        if not events:
            return Outcome(refused=refused)
        scored = self.engine.decide(events, now_ms)
        records = self.engine.records(scored, values, self.with_features)  # type: ignore[arg-type]
        blocked = [i for i, decision in enumerate(scored.decisions) if decision.action == self._block]
        return Outcome(places, records, blocked, refused)
