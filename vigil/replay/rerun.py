"""Records run again as they were decided, by the same model and policy: what comes out must be the same bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

import model_store
from vigil.decisions.decision import Decision
from vigil.decisions.policy import FULL, Decider
from vigil.decisions.record import Record, features_of, spec_of
from vigil.decisions.rules import LATE, RulesTier
from vigil.domains.schema import UNREADABLE, Schema
from vigil.domains.spec import Domain
from vigil.errors import InvalidInput, ModelRefused, NotFound
from vigil.scoring.session import Session

MOST_SHOWN = 12
NO_RECORD = "no decision record"
_decoder = msgspec.json.Decoder(Record)


@dataclass
class Difference:
    """A record, and what came out instead."""

    record: Record
    now: Decision


@dataclass
class Tally:
    """What became of records.

    Attributes:
        same: came out with the same bits.
        different: did not; the first of them are kept.
        left_out: could not be run again, by why.
    """

    same: int = 0
    different: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    first: list[Difference] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All that was read."""
        return self.same + self.different + self.left_out.total()


class Known:
    """Sorts what is read into records of a domain that can be run again, and others.

    Args:
        domain: whose records are run.
    """

    def __init__(self, domain: Domain) -> None:
        self.domain, self._spec = domain, spec_of(domain)

    def usable(self, lines: Sequence[bytes], left_out: Counter[str], needs_features: bool) -> list[Record]:
        """The records among `lines` that can be run; why not the others is counted.

        Args:
            needs_features: also of the rules tier, whose decisions need none.
        """
        found = []
        for record in _decode(lines):
            if record is None:
                left_out[NO_RECORD] += 1
            elif record.domain != self.domain.name:
                left_out[f"of the domain {record.domain!r}"] += 1
            elif (needs_features or record.tier == FULL) and (why := self._without(record)):
                left_out[why] += 1
            else:
                found.append(record)
        return found

    def _without(self, record: Record) -> str:
        """Why the features of a record cannot be used; "" where they can."""
        if isinstance(record.features, msgspec.UnsetType):
            return "without features"
        if record.spec != self._spec:
            return f"of the feature spec {record.spec!r}; the domain has {self._spec}"
        if len(record.features) != 4 * len(self.domain.features):
            return f"with {len(record.features)} bytes of features, wanted {4 * len(self.domain.features)}"
        return ""


def _decode(lines: Sequence[bytes]) -> list[Record | None]:
    joined = b"\n".join(lines)
    if joined.count(b"\n") == len(lines) - 1:
        with suppress(*UNREADABLE):
            found = _decoder.decode_lines(joined)
            if len(found) == len(lines):
                return list(found)
    return [_one(line) for line in lines]


def _one(line: bytes) -> Record | None:
    try:
        return _decoder.decode(line)
    except UNREADABLE:
        return None


class Rerun:
    """Runs records of a domain again.

    Args:
        domain: whose.
        max_batch: most rows a model is given at once.
    """

    def __init__(self, domain: Domain, max_batch: int) -> None:
        self._domain, self._max_batch = domain, max_batch
        self._known, self._schema = Known(domain), Schema(domain)
        self._decider, self._rules = Decider(domain), RulesTier(domain)
        self._models: dict[tuple[str, str], Session | str] = {}
        self.tally = Tally()

    def add(self, lines: Sequence[bytes]) -> list[Difference]:
        """Runs a batch of records; gives those that differ."""
        groups: dict[tuple[str, str, str], list[Record]] = {}
        for record in self._known.usable(lines, self.tally.left_out, needs_features=False):
            groups.setdefault((record.tier, record.model, record.digest), []).append(record)
        different: list[Difference] = []
        for (tier, model, digest), records in groups.items():
            different += self._full(records, model, digest) if tier == FULL else self._by_rules(records)
        self.tally.different += len(different)
        self.tally.first += different[: MOST_SHOWN - len(self.tally.first)]
        return different

    def _full(self, records: list[Record], model: str, digest: str) -> list[Difference]:
        session = self._model(model, digest)
        if isinstance(session, str):
            self.tally.left_out[session] += len(records)
            return []
        records, rows = sound(records, self.tally.left_out)
        if not records:
            return []
        risks = session.run(rows).tolist()
        return self._compare(records, self._decider.decide(records, risks, rows, session.tag))

    def _by_rules(self, records: list[Record]) -> list[Difference]:
        events = self._schema.decode_each([bytes(record.event) for record in records])
        good = [not isinstance(event, InvalidInput) for event in events]
        if not all(good):
            self.tally.left_out["of the rules tier with an event that cannot be"] += good.count(False)
        different = []
        for late in (False, True):
            chosen = [ok and (LATE in record.reasons) == late for ok, record in zip(good, records, strict=True)]
            now = self._rules.decide(list(compress(events, chosen)), late)
            different += self._compare(list(compress(records, chosen)), now)
        return different

    def _compare(self, records: Sequence[Record], now: Sequence[Decision]) -> list[Difference]:
        before, after = (np.array([each.risk for each in side], np.float64) for side in (records, now))
        same_risk = before.view(np.int64) == after.view(np.int64)
        policy = self._domain.policy.version
        different = []
        for record, decision, same in zip(records, now, same_risk.tolist(), strict=True):
            # The risk of the rules tier is a part of the policy.
            if record.policy != policy and (same or record.tier != FULL):
                why = f"decided by policy {record.policy!r}, the domain has {policy}"
                self.tally.left_out[f"{why}; the model gives the same risk" if record.tier == FULL else why] += 1
            elif same and (record.action, record.reasons) == (decision.action, decision.reasons):
                self.tally.same += 1
            else:
                different.append(Difference(record, decision))
        return different

    def _model(self, tag: str, digest: str) -> Session | str:
        """The model with that digest; why there is none."""
        found = self._models.get((tag, digest))
        if found is None:
            found = self._models[tag, digest] = self._load(tag, digest)
        return found

    def _load(self, tag: str, digest: str) -> Session | str:
        stored = model_store.list_models(self._domain.name)
        version = next((each.manifest.version for each in stored if each.manifest.digest == digest), None)
        if version is None:
            return f"of the model {tag} (digest {digest[:12]}), which is not in the store"
        try:
            return Session.load(self._domain, version, self._max_batch)
        except (NotFound, ModelRefused) as failure:
            return str(failure)


def sound(records: list[Record], left_out: Counter[str]) -> tuple[list[Record], npt.NDArray[np.float32]]:
    """The records whose features are finite, and these, float32 [n, F]; the others are counted. `records` hold some."""
    rows = features_of([record.features for record in records])  # type: ignore[misc]
    good: npt.NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(rows), axis=1)
    if good.all():
        return records, rows
    left_out["with features that are no numbers"] += int((~good).sum())
    return [record for record, kept in zip(records, good.tolist(), strict=True) if kept], rows[good]


def as_dict(difference: Difference) -> dict[str, Any]:
    """A difference as it is written to a file: the event's id, then what was decided before and now."""
    record, now = difference.record, difference.now
    before = {"risk": record.risk, "action": record.action, "reasons": record.reasons, "model": record.model}
    after = {"risk": now.risk, "action": now.action, "reasons": now.reasons, "model": now.model}
    return {"event_id": record.event_id, "before": before, "now": after}
