"""Aliases such as `payments@champion`: one small file beside the versions of a model.

BentoML looks at folders only, so its `models list`, `get`, `delete` and `export` do not see the file;
deleting the last version of a model removes it with the rest.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_store.layout import root
from vigil import host
from vigil.errors import ModelRefused

ALIASES_FILE = "aliases.json"
_LOCK_FILE = ".aliases.lock"
_REMEMBERED = 10


def aliases(name: str) -> dict[str, str]:
    """Alias -> version, of the model called `name`.

    Raises:
        ModelRefused: where the file of aliases cannot be read.
    """
    return {alias: targets[-1] for alias, targets in _histories(root() / name).items()}


@contextmanager
def changed(name: str) -> Iterator[dict[str, list[str]]]:
    """Alias -> the versions it has pointed at, the present one last: to be changed in place; written all at once
    at the end, or not at all where the block raises.

    One process at a time: others wait. A reader sees the file before or after, never between.
    """
    folder = root() / name
    with (folder / _LOCK_FILE).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = _histories(folder)
        yield found
        kept = {alias: targets[-_REMEMBERED:] for alias, targets in found.items()}
        draft = folder / f".{ALIASES_FILE}"
        with draft.open("w", encoding="utf-8") as file:
            json.dump(kept, file, indent=2)
            file.flush()
            host.sync(file.fileno())
        draft.replace(folder / ALIASES_FILE)


def _histories(folder: Path) -> dict[str, list[str]]:
    """Alias -> the versions it has pointed at, the present one last; none is empty."""
    file = folder / ALIASES_FILE
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as failure:
        raise ModelRefused(f"{file}: no readable aliases: {failure}") from None
    if not isinstance(found, dict) or not all(_is_history(targets) for targets in found.values()):
        raise ModelRefused(f"{file}: got {found!r}, wanted alias -> list of versions")
    return found


def _is_history(targets: object) -> bool:
    return isinstance(targets, list) and bool(targets) and all(isinstance(target, str) for target in targets)
