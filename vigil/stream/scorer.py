"""Records in, decision records out: what every stream does with a batch, wherever it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any

from vigil.engine import Decided, Engine
from vigil.errors import InvalidEvent, InvalidInput
from vigil.stream.lateness import Late


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
            events: what `decode` made of it; in `Late` what is too late.
            now_ms: the time, epoch milliseconds UTC: what is too far ahead of it is refused.
        """
        engine, decide = self.engine, partial(self.engine.decide, now_ms=now_ms)
        if set(map(type, events)) == {engine.schema.struct}:
            try:
                return self._decided(decide, values, events, range(len(events)))
            except InvalidEvent:  # a value that cannot be: find whose, and score the others
                pass
        good, late, refused = list[int](), list[int](), dict[int, InvalidInput]()
        bare = [event.event if isinstance(event, Late) else event for event in events]
        for place, event in enumerate(bare):
            failure = event if isinstance(event, InvalidInput) else engine.refusal(event, now_ms)
            if failure:
                refused[place] = failure
            else:
                (good if events[place] is event else late).append(place)
        outcome = self._decided(decide, values, bare, good)
        if late:
            outcome = _merged(outcome, self._decided(engine.decide_late, values, bare, late))
        outcome.refused |= refused
        return outcome

    def _decided(
        self,
        decide: Callable[[Sequence[Any]], Decided],
        values: Sequence[bytes | None],
        events: Sequence[Any],
        places: Sequence[int],
    ) -> Outcome:
        """What becomes of the events at `places`."""
        if not places:
            return Outcome()
        if len(places) < len(events):
            values, events = [values[place] for place in places], [events[place] for place in places]
        scored = decide(events)
        refused: dict[int, InvalidInput] = {places[i]: why for i, why in scored.refused.items()}
        if refused:
            values = [value for i, value in enumerate(values) if i not in scored.refused]
            places = [place for place in places if place not in refused]
        records = self.engine.records(scored, values, self.with_features)  # type: ignore[arg-type]
        blocked = [i for i, decision in enumerate(scored.decisions) if decision.action == self._block]
        return Outcome(places, records, blocked, refused)


def _merged(one: Outcome, other: Outcome) -> Outcome:
    """Both as one, in the order of their places."""
    both = list[tuple[int, bytes, bool]]()
    for each in (one, other):
        stopped = set(each.blocked)
        both += [(place, each.records[i], i in stopped) for i, place in enumerate(each.places)]
    both.sort(key=itemgetter(0))
    blocked = [i for i, (_, _, block) in enumerate(both) if block]
    return Outcome([place for place, _, _ in both], [record for _, record, _ in both], blocked)
