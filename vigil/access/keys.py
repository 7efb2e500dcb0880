"""API keys: made and shown once, stored as hashes in a file that services re-read.

A key is 256 random bits, so its plain SHA-256 is as safe to store as a slow hash, and quick enough for every request.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import msgspec

from vigil.access.identity import SCOPES
from vigil.errors import ConfigError, NotFound, quote

PREFIX = "vigil_"
NAME = re.compile(r"[\w.@:/ =,*-]{1,100}")


class Key(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """A key, as the file holds it, or the certificate of a caller that needs none.

    Attributes:
        id: of eight hexadecimal digits; it is the part of a key that may be shown.
        name: who holds it. Several keys may have the same: so one takes another's place.
        scopes: what its holder may do, of `SCOPES`.
        created: when, UTC.
        hash: SHA-256 of the key, hexadecimal; "" for a certificate.
        subject: name in the certificate that a caller shows; "" for a key.
        expires: from when on it is nobody's, UTC; None: never.
        rate, burst: calls a second, and at once, in place of the settings' limit; a rate of 0: no limit.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    created: datetime
    hash: str = ""
    subject: str = ""
    expires: datetime | None = None
    rate: float | None = None
    burst: float | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[Key] = []


def digest(key: bytes) -> bytes:
    """What is stored of a key."""
    return sha256(key).digest()


def read(path: Path) -> list[Key]:
    """The keys in a file; none where there is no file.

    Raises:
        ConfigError: where it cannot be read, or is no file of keys.
    """
    try:
        return _decoded(path, path.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as failure:
        raise ConfigError(f"keys in {path}: {failure.strerror or failure}") from None


def create(
    path: Path,
    name: str,
    scopes: Collection[str],
    expires: datetime | None = None,
    subject: str = "",
    rate: float | None = None,
    burst: float | None = None,
) -> tuple[Key, str]:
    """Adds a key, or the subject of a certificate, to a file.

    Returns:
        What is stored, and the key itself ("" for a certificate), which nothing holds from now on.

    Raises:
        ConfigError: for a name or scopes that cannot be, or a file that cannot be read or written.
    """
    _check(name, scopes)
    id_ = secrets.token_hex(4)
    text = "" if subject else f"{PREFIX}{id_}_{secrets.token_urlsafe(32)}"
    hash_ = digest(text.encode()).hex() if text else ""
    key = Key(id_, name, tuple(each for each in SCOPES if each in scopes), _now(), hash_, subject, expires, rate, burst)
    with _locked(path):
        _write(path, [*read(path), key])
    return key, text


def revoke(path: Path, id_: str, after: timedelta = timedelta(0)) -> Key:
    """Ends a key, at once or after a time in which another takes its place.

    Raises:
        NotFound: listing the keys there are.
        ConfigError: where the file cannot be read or written.
    """
    with _locked(path):
        found = read(path)
        for place, key in enumerate(found):
            if key.id == id_:
                ended = msgspec.structs.replace(key, expires=_now() + after)
                _write(path, [*found[:place], *([ended] if after else []), *found[place + 1 :]])
                return ended
    raise NotFound(f"no key {quote(id_)}; there are {', '.join(key.id for key in found) or 'none'}")


def _check(name: str, scopes: Collection[str]) -> None:
    if not NAME.fullmatch(name):
        raise ConfigError(f"name: got {quote(name)}, wanted 1 to 100 letters, digits or .@:/=,*-")
    for scope in scopes:
        if scope not in SCOPES:
            raise ConfigError(f"scope: got {quote(scope)}, wanted some of {', '.join(SCOPES)}")
    if not scopes:
        raise ConfigError(f"scope: got none, wanted some of {', '.join(SCOPES)}")


def _decoded(path: Path, content: bytes) -> list[Key]:
    try:
        keys = msgspec.json.decode(content, type=_File).keys
        for key in keys:
            _check(key.name, key.scopes)
            if bool(key.hash) == bool(key.subject) or (key.hash and not re.fullmatch("[0-9a-f]{64}", key.hash)):
                raise ConfigError(f"{key.id}: wanted a hash of 64 hexadecimal digits, or a subject")
            if key.created.tzinfo is None or (key.expires and key.expires.tzinfo is None):
                raise ConfigError(f"{key.id}: wanted times with their offset from UTC")
            if not all(0 <= number < float("inf") for number in (key.rate or 0, key.burst or 0)):
                raise ConfigError(f"{key.id}: wanted a rate and a burst of 0 or more")
    except (msgspec.MsgspecError, ConfigError, UnicodeDecodeError, RecursionError) as failure:
        raise ConfigError(f"keys in {path}: {failure}") from None
    return keys


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one process at a time change a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as failure:
        raise ConfigError(f"keys in {path}: {failure.strerror or failure}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write(path: Path, keys: Sequence[Key]) -> None:
    """Puts all of them in place of what was there, for the owner alone to read."""
    content = msgspec.json.format(msgspec.json.encode(_File(list(keys))), indent=2) + b"\n"
    made = ""
    try:
        file, made = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(file, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(made, path)
    except OSError as failure:
        with suppress(OSError):
            os.unlink(made)
        raise ConfigError(f"keys in {path}: {failure.strerror or failure}; nothing has changed") from None


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
