"""The gate that every call passes: who calls, and whether they may do what they ask for."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from vigil.access import keys
from vigil.access.audit import AuditLog
from vigil.access.identity import ANY, ANYONE, NEVER, NOBODY, PUBLIC, SCOPES, Identity
from vigil.access.keys import digest
from vigil.access.limits import RateLimits
from vigil.errors import ConfigError, Forbidden, Unauthenticated, quote
from vigil.observe import metrics
from vigil.settings import Settings, is_loopback

if TYPE_CHECKING:
    from vigil.access.tokens import Tokens

logger = logging.getLogger(__name__)

LOOK_S = 1.0
MOST_HOSTS = MOST_RECENT = 1024


class Gate:
    """Holds a process's keys and looks at each call. `asks` tells whether it asks for one,
    `knows` whether it wants to know who calls, be it by address.
    `admin_port` is the one that control calls come by; 0: any.

    Args:
        settings: who may call, where the keys are, whose tokens are believed. What nobody has resolved (`auto`) lets
            nobody in who is not on this machine, where there are no keys.
        limits: how often each may call; None: as often as they like.
        audit: where refused calls are written, and those that `record` is told of; None: nowhere.

    Raises:
        ConfigError: where keys are asked for and cannot be read.
    """

    def __init__(self, settings: Settings, limits: RateLimits | None = None, audit: AuditLog | None = None) -> None:
        self._limits, self._audit, self.admin_port = limits, audit, settings.admin_port
        for kind in ("key", "address"):  # so that there is a number before the first is refused
            metrics.RATE_LIMITED.labels(kind)
        self._path = keys_path(settings)
        self.mode = settings.access
        if self.mode == "auto":
            self.mode = "keys" if settings.jwt_keys or keys.read(self._path) else "local"
        self.asks, self.knows = self.mode == "keys", self.mode == "keys" or limits is not None
        self._by_digest: dict[bytes, Identity] = {}
        # By `X-API-Key` and by `Authorization` as they came, of keys without an end and without a limit.
        self._recent: tuple[dict[bytes, Identity], dict[bytes, Identity]] = ({}, {})
        self._rate = settings.rate_limit
        self._by_subject: dict[str, Identity] = {}
        self._tokens = _tokens(settings) if settings.jwt_keys and self.asks else None
        self._seen, self._failure = _stamp(self._path), ""  # of the file as last read; why it could not be read since
        self._hosts = {name.strip().lower() for name in settings.allowed_hosts.split(",") if name.strip()}
        self._own_hosts: dict[bytes, bool] = {}
        self._allows: Callable[[str], bool] = lambda origin: False
        if self.asks:
            self._load()

    def _load(self) -> None:
        by_digest, by_subject = {}, {}
        for key in keys.read(self._path):
            expires_s = key.expires.timestamp() if key.expires else NEVER
            scopes = frozenset((*key.scopes, ANY, PUBLIC))
            identity = Identity(key.name, key.id, scopes, expires_s, key.rate, key.burst)
            if key.hash:
                by_digest[bytes.fromhex(key.hash)] = identity
            else:
                by_subject[key.subject] = identity
        self._by_digest, self._by_subject, self._recent = by_digest, by_subject, ({}, {})

    @property
    def knows_certificates(self) -> bool:
        """Whether any caller may come with a certificate in place of a key."""
        return bool(self._by_subject)

    def look(self) -> None:
        """Reads the keys anew where their file has changed; to be called every `LOOK_S`."""
        stamp = _stamp(self._path)
        if not self.asks or stamp == self._seen:
            return
        try:
            self._load()
        except ConfigError as failure:
            # Retried at each look: permissions and descriptors come back without a change of the file.
            if str(failure) != self._failure:
                logger.error("%s; the keys read before still count", failure)
            self._failure = str(failure)
        else:
            logger.info("read %d keys from %s", len(self._by_digest), self._path)
            self._seen, self._failure = stamp, ""

    def admit(
        self, credentials: Mapping[bytes, bytes], scope: str, origin: str = "", subjects: Sequence[str] = ()
    ) -> Identity:
        """Who calls, where they may, and have not called too often.

        Args:
            credentials: values of `authorization` and `x-api-key`, as far as they came.
            scope: that the call needs.
            origin: address of the caller.
            subjects: names in the certificate that the caller has shown.

        Raises:
            Unauthenticated: for no key, or one that is none.
            Forbidden: for one without the scope.
            RateLimited: for one call too many.
        """
        if not self.knows:
            return ANYONE
        # Most calls come with a key that was looked at before. It is found by the text that came, so nothing is hashed.
        text, recent = credentials.get(b"x-api-key"), self._recent[0]
        if not text:
            text, recent = credentials.get(b"authorization", b""), self._recent[1]
        known = recent.get(text)
        if known is not None and scope in known.scopes:
            return known
        if not scope:
            return NOBODY
        try:
            identity = self._identity(credentials, scope, subjects) if self.asks else ANYONE._replace(origin=origin)
        except (Unauthenticated, Forbidden) as failure:
            self._refuse(origin, scope, str(failure))
            raise
        if self._limits:
            self.charge(identity, 1)
        unlimited = self._limits is None or (identity.rate == 0 if identity.rate is not None else not self._rate)
        lasting = unlimited and identity.expires_s == NEVER and identity.id
        # A caller known by a certificate may send another text, which anyone can send.
        if lasting and _key(credentials) and len(recent) < MOST_RECENT:
            recent[text] = identity
        return identity

    def charge(self, identity: Identity, cost: float) -> None:
        """Counts a call, or the events of one, against the caller's limit.

        Raises:
            RateLimited: where it has used that up.
        """
        if self._limits and cost > 0:
            if identity.origin:
                self._limits.take_address(identity.origin, cost)
            else:
                self._limits.take(identity.id or identity.name, cost, identity.rate, identity.burst)

    def record(self, identity: Identity, what: str, origin: str, target: str, result: str) -> None:
        """Writes into the audit log what somebody did."""
        if self._audit:
            self._audit.write(identity.id or identity.name, what, origin, target, result)

    def _refuse(self, origin: str, target: str, why: str) -> None:
        if self._audit:
            self._audit.refuse("unknown", "refused", origin, target, why)

    def _identity(self, credentials: Mapping[bytes, bytes], scope: str, subjects: Sequence[str]) -> Identity:
        key = _key(credentials)
        if key:
            hashed = digest(key)
            identity = self._by_digest.get(hashed)
            if identity is None and self._tokens:
                identity = self._tokens.identity(key, hashed)
        else:
            identity = next((self._by_subject[name] for name in subjects if name in self._by_subject), None)
            if identity is None:
                raise Unauthenticated(_WANTED)
        if identity is None or identity.expires_s <= time():
            raise Unauthenticated("the key is none that is known, or not any more")
        if scope not in identity.scopes:
            has = ", ".join(each for each in SCOPES if each in identity.scopes)
            raise Forbidden(f"scope: this call needs {scope}; the key {identity.id or quote(identity.name)} has {has}")
        return identity

    def allow(self, allows: Callable[[str], bool]) -> None:
        """Takes in what says of which other pages of the web calls are welcome (CORS), by their `Origin`."""
        self._allows = allows

    def check_host(self, headers: Mapping[bytes, bytes], origin: str = "") -> None:
        """Where anyone on this machine may call, only they shall: a page of the web is not one of them.

        A browser sends the page's own address as `Origin`, and after a trick with names (DNS rebinding) a foreign
        name as `Host`.

        Raises:
            Forbidden: for a `Host` or `Origin` that is neither this machine's nor in `VIGIL_ALLOWED_HOSTS`.
        """
        if self.mode != "local" and not self._hosts:
            return
        host, page = headers.get(b"host", b""), headers.get(b"origin", b"").decode("latin-1")
        named = ""
        if not self._is_own(host):
            named = f"host: got {quote(host.decode('latin-1'))}"
        elif page and not self._is_own(page.partition("://")[2].encode("latin-1")) and not self._allows(page):
            named = f"origin: got {quote(page)}"
        if named:
            self._refuse(origin, "host", named)
            raise Forbidden(f"{named}, wanted {self._wanted()}")

    def _wanted(self) -> str:
        named = ", ".join(sorted(self._hosts)) or "none"
        return f"this machine's own, or one in VIGIL_ALLOWED_HOSTS ({named})"

    def _is_own(self, authority: bytes) -> bool:
        own = self._own_hosts.get(authority)
        if own is None:
            host = authority.decode("latin-1").lower()
            if not (host.startswith("[") and host.endswith("]")):
                host = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
            own = (self.mode == "local" and is_loopback(host)) or host in self._hosts
            if len(self._own_hosts) < MOST_HOSTS:
                self._own_hosts[authority] = own
        return own


_WANTED = "no key: send one as `Authorization: Bearer ...` or `X-API-Key: ...`; `vigil keys create` makes them"


def _tokens(settings: Settings) -> Tokens:
    from vigil.access.tokens import Tokens  # loads what only tokens need

    return Tokens(settings)


def _key(credentials: Mapping[bytes, bytes]) -> bytes:
    if key := credentials.get(b"x-api-key"):
        return key
    value = credentials.get(b"authorization", b"")
    return value[7:].strip() if value[:7].lower() == b"bearer " else b""


def keys_path(settings: Settings) -> Path:
    """Where the keys are."""
    return settings.keys_file or settings.state_dir / "keys.json"


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size


def resolve(settings: Settings, hosts: Mapping[str, str]) -> str:
    """What `VIGIL_ACCESS=auto` means: keys where there are some; without, open to this machine alone.

    Args:
        settings: as given.
        hosts: addresses to be listened on, by what sets them.

    Raises:
        ConfigError: where callers from elsewhere would need keys, and there are none; or the two contradict each other.
    """
    reached = [f"{name} {host}" for name, host in hosts.items() if not is_loopback(host)]
    known = settings.access in ("auto", "keys") and bool(keys.read(keys_path(settings)) or settings.jwt_keys)
    if settings.access == "open":
        return "open"
    if settings.access == "keys" or known:
        if not known:
            raise ConfigError(f"VIGIL_ACCESS=keys: none in {keys_path(settings)}; make one: {_MAKE}")
        return "keys"
    if reached:
        raise ConfigError(
            f"{' and '.join(reached)}: others can call, and there are no keys; make one: {_MAKE}, "
            "or let anyone call: VIGIL_ACCESS=open"
        )
    return "local"


_MAKE = "`vigil keys create NAME --scopes score`"
