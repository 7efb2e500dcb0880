"""Who calls, and what they may do."""

from __future__ import annotations

from typing import NamedTuple

SCOPES = ("score", "infer", "feedback", "read", "admin", "metrics")
ADMIN = "admin"
ANY = "any"
"""Scope of what everyone may do who may do anything."""
PUBLIC = ""
"""Scope of what needs no key: whether the service lives and is ready."""
AUDITED = frozenset((ADMIN, "feedback"))
"""Scopes whose calls are written into the audit log."""
NEVER = float("inf")


class Identity(NamedTuple):
    """Who calls.

    Attributes:
        name: of the key's holder, "sub:" and the token's subject, or "anyone" where no key is asked for.
        id: of the key; "" where there is none.
        scopes: what they may do.
        expires_s: until when, seconds since 1970.
        rate, burst: calls a second, and at once, of their own; None: as everyone's.
        origin: address they call from, where it is all that is known of them and counts.
    """

    name: str
    id: str
    scopes: frozenset[str]
    expires_s: float = NEVER
    rate: float | None = None
    burst: float | None = None
    origin: str = ""


ANYONE = Identity("anyone", "", frozenset((*SCOPES, ANY, PUBLIC)))
NOBODY = Identity("nobody", "", frozenset((PUBLIC,)))
