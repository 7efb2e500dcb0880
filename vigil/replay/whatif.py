"""Records decided anew by another model and the domain's present policy: what changes, and what it would have cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vigil.decisions.policy import Decider
from vigil.domains.schema import Schema
from vigil.domains.spec import Domain, Policy
from vigil.errors import InvalidInput
from vigil.replay.rerun import MOST_SHOWN, Difference, Known, sound
from vigil.scoring.session import Session


@dataclass
class Cost:
    """What decisions on labelled events came to, money in the unit of the policy's `money`.

    Attributes:
        caught: bad events that were reviewed or stopped.
        missed: bad events that passed; `lost` is their money.
        bothered: good events that were stopped.
        reviews: events that a person looked at.
        spent: `lost`, and what reviews and stopped good events cost.
    """

    caught: int = 0
    missed: int = 0
    bothered: int = 0
    reviews: int = 0
    lost: float = 0.0
    spent: float = 0.0

    def add(self, policy: Policy, action: str, label: int, money: float) -> None:
        """Counts one decision."""
        harmless, review, block = policy.actions
        if label and action == harmless:
            self.missed += 1
            self.lost += money
            self.spent += money
        elif label:
            self.caught += 1
        if action == review:
            self.reviews += 1
            self.spent += policy.review_cost
        elif action == block and not label:
            self.bothered += 1
            self.spent += policy.block_cost


@dataclass
class Outcome:
    """How records would have been decided.

    Attributes:
        actions: decisions by action before and now.
        left_out: what could not be decided anew, by why.
        labelled: decisions whose label is known; `before` and `now` are of these.
        first: changed ones, those first whose risk has changed most.
    """

    actions: Counter[tuple[str, str]] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    labelled: int = 0
    before: Cost = field(default_factory=Cost)
    now: Cost = field(default_factory=Cost)
    first: list[Difference] = field(default_factory=list)

    @property
    def changed(self) -> int:
        """Decisions with another action than before."""
        return sum(count for (before, now), count in self.actions.items() if before != now)

    @property
    def total(self) -> int:
        """All that was read."""
        return self.actions.total() + self.left_out.total()


class WhatIf:
    """Decides records anew. The first record of a labelled event counts for the cost, repeats of it do not.

    Args:
        domain: whose records, and whose policy decides.
        session: the model.
        labels: by event id as text; what is used is taken out.
    """

    def __init__(self, domain: Domain, session: Session, labels: Mapping[str, int]) -> None:
        self._policy, self._session, self._labels = domain.policy, session, dict(labels)
        self._known, self._schema, self._decider = Known(domain), Schema(domain), Decider(domain)
        self.outcome = Outcome()

    def add(self, lines: Sequence[bytes]) -> list[Difference]:
        """Decides a batch of records; gives those with another action."""
        outcome = self.outcome
        records = self._known.usable(lines, outcome.left_out, needs_features=True)
        if not records:
            return []
        records, rows = sound(records, outcome.left_out)
        if not records:
            return []
        session = self._session
        decisions = self._decider.decide(records, session.run(rows).tolist(), rows, session.tag)
        pairs = [Difference(record, now) for record, now in zip(records, decisions, strict=True)]
        outcome.actions.update((pair.record.action, pair.now.action) for pair in pairs)
        self._count([pair for pair in pairs if str(pair.record.event_id) in self._labels])
        changed = [pair for pair in pairs if pair.record.action != pair.now.action]
        outcome.first = sorted([*outcome.first, *changed], key=_shift, reverse=True)[:MOST_SHOWN]
        return changed

    def _count(self, pairs: Sequence[Difference]) -> None:
        events = self._schema.decode_each([bytes(pair.record.event) for pair in pairs])
        for event, pair in zip(events, pairs, strict=True):
            label = self._labels.pop(str(pair.record.event_id), None)
            if label is not None and not isinstance(event, InvalidInput):
                money = getattr(event, self._policy.money)
                self.outcome.labelled += 1
                self.outcome.before.add(self._policy, pair.record.action, label, money)
                self.outcome.now.add(self._policy, pair.now.action, label, money)


def _shift(pair: Difference) -> float:
    return abs(pair.now.risk - pair.record.risk)
