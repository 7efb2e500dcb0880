"""Which version an alias means: forwards, and back again."""

from __future__ import annotations

import re
from pathlib import Path

from model_store.aliases import changed
from model_store.integrity import read
from model_store.stored import StoredModel, resolve, versions
from vigil.errors import InvalidInput, NotFound

_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def check_alias(alias: str) -> None:
    """Passes for what can be an alias.

    Raises:
        InvalidInput: naming what came and what was wanted.
    """
    if not _ALIAS.fullmatch(alias) or alias == "latest":
        wanted = "1 to 32 of a-z, 0-9, - and _, beginning with a letter, not `latest`"
        raise InvalidInput(f"alias: got {alias!r}, wanted {wanted}")


def set_alias(name: str, alias: str, version: str) -> None:
    """Lets `name@alias` mean `version` (or what another alias means).

    Raises:
        InvalidInput: for an alias that cannot be one.
        NotFound: where there is no such version; the message lists those there are.
    """
    target = resolve(name, version).manifest.version
    check_alias(alias)
    if alias in versions(name):
        raise InvalidInput(f"alias: got {alias!r}, which is a version of {name}, wanted another name")
    with changed(name) as histories:
        history = histories.setdefault(alias, [])
        if history[-1:] != [target]:
            history.append(target)


def promote(name: str, version: str, alias: str = "champion", trust: Path | None = None) -> StoredModel:
    """Lets `name@alias` mean `version` once its file has been checked as `model_store.verify` does.

    Raises:
        InvalidInput: for an alias that cannot be one.
        NotFound: where there is no such version.
        ModelRefused: where the file is not what its manifest says.
    """
    stored = resolve(name, version)
    read(stored, trust)
    set_alias(name, alias, stored.manifest.version)
    return stored


def rollback(name: str, alias: str = "champion") -> str:
    """Lets `name@alias` mean again what it meant before, past versions deleted since.

    Returns:
        The version it means now.

    Raises:
        NotFound: where the alias, or an earlier version of it that still exists, is missing.
    """
    existing = versions(name)
    with changed(name) as histories:
        if alias not in histories:
            raise NotFound(f"no alias {name}@{alias}; there are {', '.join(sorted(histories)) or 'none'}")
        *earlier, present = histories[alias]
        left = [version for version in earlier if version in existing]
        if not left:
            raise NotFound(f"{name}@{alias} means {present} and there is no earlier version to go back to")
        histories[alias] = left
    return left[-1]
