"""Opens a domain's feature state where `VIGIL_STATE_URL` says it lies: in memory, or on servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vigil.domains.spec import Domain
from vigil.features.memory import durable
from vigil.features.memory.lock import Lock
from vigil.settings import MEMORY, Settings

if TYPE_CHECKING:
    from vigil.features.shared.store import SharedState


def open_state(domain: Domain, settings: Settings) -> durable.State | SharedState:
    """The durable state of a domain, as it was when its last process ended, or as others share it.

    Raises:
        StateError: where another process holds it, a file is damaged, or it was made by another feature spec.
        ConfigError: for an address that cannot be.
    """
    if settings.state_url == MEMORY:
        return durable.State(domain, settings)
    from vigil.features.shared.store import SharedState  # redis-py, where it is asked for

    return SharedState(domain, settings)


def check_free(domain: Domain, settings: Settings) -> None:
    """Raises StateError where another process holds the state of a domain; one that is shared nobody holds."""
    if settings.state_url == MEMORY:
        Lock(durable.folder_of(domain, settings)).close()
