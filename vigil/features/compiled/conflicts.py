"""What is said of an event that comes again with another content."""

from __future__ import annotations

from vigil.domains.spec import Domain
from vigil.errors import Conflict
from vigil.features.compiled.state import Event


def conflict(domain: Domain, event_id: str | int, before: Event | None, now: Event, at: str) -> Conflict:
    """The refusal of an event.

    Args:
        domain: whose event it is.
        event_id: as it came.
        before: what is remembered by its id; None where only its entities still hold it.
        now: what came.
        at: where it stood, as in InvalidEvent.
    """
    if before is None:
        return Conflict(event_id, "", now.fingerprint, "", at)
    names = ("ts", *[entity.name for entity in domain.entities], *[number.name for number in domain.numbers])
    sides = [(each.ts_ms, *each.rows, *each.quanta) for each in (before, now)]
    changed = ", ".join(name for name, old, new in zip(names, *sides, strict=True) if old != new)
    return Conflict(event_id, before.fingerprint, now.fingerprint, changed, at)
