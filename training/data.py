"""Where a history comes from: a user's file, or the domain's simulation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

from vigil.domains.spec import Domain
from vigil.errors import DataError
from vigil.features import history
from vigil.features.history import History


def from_file(domain: Domain, path: Path, columns: Mapping[str, str]) -> History:
    """The history of a Parquet or CSV file; see :func:`vigil.features.history.read`.

    Raises:
        DataError: as there, and for a file without a label.
    """
    found = history.read(domain, path, columns)
    if (found.labels < 0).all():
        raise DataError(f"{path}: no event has a label, wanted 0 or 1 for those whose truth is known")
    return found


def simulated(domain: Domain, seed: int, days: int, **sizes: int) -> History:
    """The first `days` of the domain's simulation.

    Args:
        sizes: of the simulated world, such as `customers`; those of the simulation where not given.

    Raises:
        DataError: where the domain has no simulation, or one without such a size.
    """
    if domain.simulate is None:
        raise DataError(f"domain {domain.name!r} has no simulation: give a history by --data FILE")
    known = list(inspect.signature(domain.simulate).parameters)[3:]
    for name in sizes:
        if name not in known:
            raise DataError(f"the simulation of {domain.name} has no size {name!r}; there are {', '.join(known)}")
    events = domain.simulate(seed, 0, days, **sizes)
    return History(domain, events.event_ids, events.ts_ms, events.keys, events.numbers, events.labels, events.scenarios)
