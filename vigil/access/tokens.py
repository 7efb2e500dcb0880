"""Tokens of an OpenID Connect issuer (JWT, RFC 7519), checked against the keys it publishes (JWKS, RFC 7517)."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.request import urlopen

import jwt
import msgspec

from vigil.access.identity import ANY, PUBLIC, SCOPES, Identity
from vigil.errors import ConfigError, quote
from vigil.settings import Settings

logger = logging.getLogger(__name__)
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
REREAD_S = 300.0
LEAST_S = 10.0  # between two readings for the sake of tokens signed by a key not known yet
WAIT_S = 5.0
LEEWAY_S = 30
MOST_BYTES = 1 << 20
MOST_TOKEN_BYTES = 16 << 10
MOST_REMEMBERED = 10_000


class Tokens:
    """Whose tokens are believed.

    Args:
        settings: of them `jwt_keys`, `jwt_issuer`, `jwt_audience` and `jwt_scopes`.

    Raises:
        ConfigError: where the issuer's keys cannot be read, or issuer or audience is not named.
    """

    def __init__(self, settings: Settings) -> None:
        self._source, self._claim = settings.jwt_keys, settings.jwt_scopes
        self._checks: dict[str, Any] = {"issuer": settings.jwt_issuer, "audience": settings.jwt_audience}
        for name, value in self._checks.items():
            if not value:
                raise ConfigError(f"VIGIL_JWT_KEYS={quote(self._source)}: wanted VIGIL_JWT_{name.upper()} beside it")
        self._remembered: dict[bytes, Identity] = {}
        self._content, self._keys = b"", dict[str, jwt.PyJWK]()
        self._read_s = monotonic()
        self._reading = threading.Lock()
        self._read()

    def identity(self, token: bytes, digest: bytes) -> Identity | None:
        """Whose token it is; None where it is not to be believed.

        Args:
            token: as it came.
            digest: of it, by which it is remembered.
        """
        age_s = monotonic() - self._read_s
        if age_s > REREAD_S:
            self._read_on()
        found = self._remembered.get(digest)
        if found is None and len(token) <= MOST_TOKEN_BYTES:
            try:
                name = jwt.get_unverified_header(token).get("kid", "")
                key = self._keys.get(name if isinstance(name, str) else "")
                if key is None:
                    if age_s > LEAST_S:
                        self._read_on()
                    return None
                found = self._decoded(token, key)
            except (jwt.InvalidTokenError, ValueError, TypeError) as failure:
                logger.debug("a token is refused: %s", failure)
                return None
            if len(self._remembered) >= MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[digest] = found
        return found

    def _decoded(self, token: bytes, key: jwt.PyJWK) -> Identity:
        options: Any = {"require": ["exp", "iss", "aud", "sub"]}
        claims = jwt.decode(token, key, algorithms=ALGORITHMS, leeway=LEEWAY_S, options=options, **self._checks)
        given = claims.get(self._claim, ())
        scopes = given.split() if isinstance(given, str) else given if isinstance(given, list) else ()
        ours = [scope for scope in scopes if scope in SCOPES]
        return Identity(f"sub:{claims['sub']}", "", frozenset((*ours, ANY, PUBLIC)), float(claims["exp"]) + LEEWAY_S)

    def _read_on(self) -> None:
        """Reads the issuer's keys anew, in a thread; what is known counts until then."""
        if self._reading.acquire(blocking=False):
            self._read_s = monotonic()
            threading.Thread(target=self._reread, name="vigil-jwks", daemon=True).start()

    def _reread(self) -> None:
        try:
            self._read()
        except ConfigError as failure:
            logger.error("%s; the keys read before still count", failure)
        finally:
            self._reading.release()

    def _read(self) -> None:
        try:
            if self._source.startswith("https://"):
                with urlopen(self._source, timeout=WAIT_S) as answer:
                    content = answer.read(MOST_BYTES)
            else:
                content = Path(self._source).read_bytes()
            found = jwt.PyJWKSet.from_dict(msgspec.json.decode(content))
        except (OSError, msgspec.MsgspecError, jwt.PyJWTError, ValueError, TypeError, AttributeError) as failure:
            raise ConfigError(f"VIGIL_JWT_KEYS={quote(self._source)}: {failure}") from None
        if content != self._content:  # a key that is gone, or another now, speaks for nobody any more
            self._content, self._keys, self._remembered = content, {key.key_id or "": key for key in found.keys}, {}
