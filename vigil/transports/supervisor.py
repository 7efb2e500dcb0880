"""The process that starts workers, and starts them again."""

from __future__ import annotations

import os
import socket
from typing import Any

import click
from bentoml._internal.utils import circus
from bentoml.exceptions import BentoMLException

from vigil import domains, logs, settings, tracing
from vigil.errors import ConfigError, VigilError

CHECK_S = 0.5


def configuration() -> settings.Settings:
    """The settings, with what contradicts itself refused; the supervisor is made ready in its process.

    Raises:
        BentoMLException: which `bentoml serve` prints as one line, without a trace.
    """
    try:
        found = settings.load()
        domains.selected(found.domains)
        if found.workers > 1 and found.state_url == settings.MEMORY:
            raise ConfigError(
                f"VIGIL_WORKERS={found.workers} with VIGIL_STATE_URL={found.state_url}: memory belongs to one process, "
                "so several workers would each know a part of the events; set VIGIL_WORKERS=1, "
                "or share it by VIGIL_STATE_URL=redis://..."
            )
        tracing.plan(os.environ)
        _check_ports(found)
    except VigilError as failure:
        raise BentoMLException(str(failure)) from None
    if click.get_current_context(silent=True):
        logs.configure(found)
        _look_often()
    return found


def _check_ports(found: settings.Settings) -> None:
    """Refuses ports that are taken, in the process that is about to start workers (it knows the HTTP port)."""
    context = click.get_current_context(silent=True)
    if context is None or not isinstance(port := context.params.get("port"), int):
        return
    taken = [(context.params.get("host") or "127.0.0.1", port, "--port")]
    if found.grpc_port:
        taken.append((found.grpc_host, found.grpc_port, "VIGIL_GRPC_PORT"))
    for host, number, key in taken:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, number))
            except OSError as failure:
                raise ConfigError(f"port {number} on {host}: {failure.strerror}; choose another by {key}") from None


def _look_often() -> None:
    """Lets BentoML's supervisor look for dead workers every `CHECK_S`: its own is ten seconds, and not to be set."""
    arbiter = circus.Arbiter

    def often(*args: Any, **kwargs: Any) -> Any:
        return arbiter(*args, **{**kwargs, "check_delay": CHECK_S})

    circus.Arbiter = often
