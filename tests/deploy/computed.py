"""`python -m tests.deploy.computed`: a digest of every kind of feature over a long run of seeded events."""

from __future__ import annotations

import hashlib

import numpy as np

from tests.features.every_feature import DOMAIN
from vigil.domains.schema import Feedback
from vigil.features.memory.store import MemoryStore

STEPS, HOUR = 2000, 3_600_000


def digest() -> str:
    """Of features, outcomes and the state left: repeats, ids used twice, late events, labels before and after."""
    random, store, found = np.random.default_rng(7), MemoryStore(DOMAIN), hashlib.sha256()
    store.seed = 7
    for step in range(STEPS):
        names, hours, late = random.integers(0, 2 * step + 5, 4), random.integers(0, 12, 4), random.integers(0, 2, 4)
        events = [
            {
                "event_id": str(name),
                "ts": 1_600_000_000_000 + step * HOUR - int(hour * slow) * HOUR,
                "a": "xyz"[hour % 3],
                "b": "pqrs"[name % 4],
                "amount": (name * 7919 % 90_000 + 1) / 100,
            }
            for name, hour, slow in zip(names.tolist(), hours.tolist(), late.tolist(), strict=True)
        ]
        made = [store.schema.make(event) for event in events]
        features, status = store.apply_events(made)
        if step % 3 == 0:
            _, again = store.apply_events(made)
            found.update(again.tobytes())
        labelled = store.feedback([Feedback(str(names[0] + 1), int(late[0]))])
        found.update(features.tobytes() + status.tobytes() + labelled.tobytes())
    for array in store.compacted().values():
        found.update(array.tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    print(digest())
