"""Reading shared state: entities that are not loaded, what has come to others since, what is remembered of events."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vigil.features.compiled import wire
from vigil.features.shared import scripts
from vigil.features.shared.cache import Loaded, Remembered, decode
from vigil.features.shared.connection import Command, Link
from vigil.features.shared.scripts import Ints

MOST_READ = 1024  # logs or events of one command: a server does nothing else meanwhile
_NONE = np.empty(0, np.int64)


class Reader:
    """Reads by one round trip, or none.

    Args:
        link: to the server.
    """

    def __init__(self, link: Link) -> None:
        self._link, self.script = link, link.script(scripts.LOOK)

    def read(
        self, loaded: Loaded, wanted: Sequence[tuple[int, str]], events: Sequence[int] = (), held: Ints = _NONE
    ) -> dict[int, Remembered]:
        """Loads entities; gives what is remembered of `events`.

        Args:
            loaded: where they are loaded.
            wanted: entities (entity, key) that are not loaded.
            events: keys of events.
            held: int64 [n], rows that are loaded, to be brought up to date where their logs have changed.

        Raises:
            Unavailable, Again: as `Link.call`.
        """
        names = [loaded.name(*pair) for pair in wanted]
        keys = [name[1:] for name in names] + [loaded.event_name(key) for key in events]
        reads = self._link.groups(np.array([bucket for bucket, _ in keys], np.int64), MOST_READ)
        looks = self._link.groups(loaded.logs[held, wire.BUCKET], MOST_READ)
        commands: list[Command] = [(g, ("MGET", *[keys[i][1] for i in part.tolist()])) for g, part in reads]
        commands += [(group, self.look(loaded, held[part])) for group, part in looks]
        if not commands:
            return {}
        answers = self._link.call(commands)
        found: list[bytes | None] = [None] * len(keys)
        for (_, part), values in zip(reads, answers, strict=False):
            for i, value in zip(part.tolist(), values, strict=True):
                found[i] = value
        if wanted:
            loaded.load(wanted, names, found[: len(names)])
        for (_, part), changed in zip(looks, answers[len(reads) :], strict=True):
            if changed:
                which = np.array(changed[::2])
                loaded.reload(held[part][np.abs(which) - 1], changed[1::2], which > 0)
        return {key: decode(value) for key, value in zip(events, found[len(names) :], strict=True) if value}

    def look(self, loaded: Loaded, rows: Ints) -> bytes:
        """The command that looks which of the logs of loaded rows have changed."""
        table = loaded.logs[rows]
        sizes = table[:, wire.ENTRIES] * loaded.entry_bytes[table[:, wire.ENTITY]]
        key_at = table[:, [wire.NAME, wire.NAME_END]]
        return scripts.look(self.script, loaded.names, key_at, table[:, wire.VERSION], sizes)
