"""The domains there are: every module of this package with a `DOMAIN`, and modules of the user's own."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from vigil.domains.spec import Domain
from vigil.errors import ConfigError, NotFound

_NOT_DOMAINS = {"schema", "simulation", "spec", "windows"}


@cache
def shipped() -> tuple[str, ...]:
    """Names of the domains in this package."""
    return tuple(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_DOMAINS)


@cache
def load(name: str) -> Domain:
    """The domain called `name`: one in this package, or an importable module that defines `DOMAIN`.

    Raises:
        NotFound: where there is none; the message lists those shipped.
        ConfigError: where the module has no `DOMAIN`.
    """
    target = f"{__name__}.{name}" if name in shipped() else name
    try:
        module = importlib.import_module(target)
    except ModuleNotFoundError as missing:
        if missing.name and target.startswith(missing.name):
            known = ", ".join(shipped())
            raise NotFound(
                f"no domain {name!r}; there are {known}, or give an importable module with a DOMAIN"
            ) from None
        raise
    domain = getattr(module, "DOMAIN", None)
    if not isinstance(domain, Domain):
        raise ConfigError(f"module {target} defines no DOMAIN (a vigil.domains.spec.Domain)")
    return domain


def selected(names: str) -> tuple[Domain, ...]:
    """The domains of a comma-separated setting; all shipped ones where it is empty."""
    chosen = [name.strip() for name in names.split(",") if name.strip()] or list(shipped())
    return tuple(load(name) for name in chosen)
