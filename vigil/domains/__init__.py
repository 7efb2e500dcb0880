"""The domains there are: those of this package that `SHIPPED` names, and modules of the user's own."""

from __future__ import annotations

import importlib
from functools import cache

from vigil.domains.spec import Domain
from vigil.errors import ConfigError, NotFound

SHIPPED = ("payments",)
"""Modules of this package that define a `DOMAIN`."""


@cache
def load(name: str) -> Domain:
    """The domain called `name`: one in this package, or an importable module that defines `DOMAIN`.

    Raises:
        NotFound: where there is none; the message lists those shipped.
        ConfigError: where the module has no `DOMAIN`.
    """
    target = f"{__name__}.{name}" if name in SHIPPED else name
    try:
        module = importlib.import_module(target)
    except ModuleNotFoundError as missing:
        if missing.name and target.startswith(missing.name):
            known = ", ".join(SHIPPED)
            raise NotFound(
                f"no domain {name!r}; there are {known}; one of your own is a module on the PYTHONPATH, "
                "named as in `import`: logins for logins.py"
            ) from None
        raise
    domain = getattr(module, "DOMAIN", None)
    if not isinstance(domain, Domain):
        raise ConfigError(f"module {target} defines no DOMAIN (a vigil.domains.spec.Domain)")
    return domain


def select(names: str) -> tuple[Domain, ...]:
    """The domains of a comma-separated setting; all shipped ones where it is empty."""
    chosen = [name.strip() for name in names.split(",") if name.strip()] or list(SHIPPED)
    return tuple(load(name) for name in chosen)
