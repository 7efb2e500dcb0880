"""The process that starts workers, and starts them again."""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import Any

import click
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.utils import circus
from bentoml.exceptions import BentoMLException

from vigil import domains, settings
from vigil.access import gate
from vigil.errors import ConfigError, VigilError
from vigil.observe import logs, tracing
from vigil.serving import lifeline
from vigil.serving.listening import drain
from vigil.transports.tls import Certificates

CHECK_S = 0.5
# How long a port is waited for: workers of a supervisor that was killed give theirs up within that time.
WAIT_S = 1.5
HOST, PORT = "127.0.0.1", 3000
"""Where `bentoml serve` listens without being told: BentoML's own default is all interfaces."""


def configuration() -> settings.Settings:
    """The settings, with what contradicts itself refused; the supervisor is made ready in its process.

    Raises:
        BentoMLException: which `bentoml serve` prints as one line, without a trace.
    """
    try:
        _take_ssl_options()
        found = settings.load()
        Certificates.of(found)
        domains.select(found.domains)
        if found.workers > 1 and found.state_url == settings.MEMORY:
            raise ConfigError(
                f"VIGIL_WORKERS={found.workers} with VIGIL_STATE_URL={settings.MEMORY}: memory belongs to one process, "
                "so several workers would each know a part of the events; set VIGIL_WORKERS=1, "
                "or share it by VIGIL_STATE_URL=redis://..."
            )
        if found.workers > 1 and found.admin_port:
            raise ConfigError(
                f"VIGIL_ADMIN_PORT={found.admin_port} with VIGIL_WORKERS={found.workers}: one has the port"
            )
        tracing.plan(os.environ)
        found = _check_ports(found)
    except VigilError as failure:
        raise BentoMLException(str(failure)) from None
    if click.get_current_context(silent=True):
        logs.configure(found)
        circus.Arbiter = Supervisor
    return found


def _take_ssl_options() -> None:
    """Lets `--ssl-certfile` and `--ssl-keyfile` mean the settings, for gRPC too; workers inherit the environment.

    Raises:
        ConfigError: for BentoML's other TLS options, which gRPC would not follow, or for two different files.
    """
    context = click.get_current_context(silent=True)
    params = context.params if context and "port" in context.params else {}  # a worker's are BentoML's own
    given = {name: value for name, value in params.items() if name.startswith("ssl_") and value is not None}
    for option, key in (("ssl_certfile", "VIGIL_TLS_CERT"), ("ssl_keyfile", "VIGIL_TLS_KEY")):
        if (file := given.pop(option, None)) and os.environ.setdefault(key, file) != file:
            raise ConfigError(f"--{option.replace('_', '-')} {file}: {key}={os.environ[key]} says otherwise; set one")
    ours = "set VIGIL_TLS_CERT, VIGIL_TLS_KEY and VIGIL_TLS_CLIENT_CA, which hold for HTTP and gRPC"
    if given:
        raise ConfigError(f"--{min(given).replace('_', '-')}: gRPC would not follow it; {ours}")
    if BentoMLContainer.ssl.enabled.get() and "VIGIL_TLS_CERT" not in os.environ:
        raise ConfigError(f"api_server.ssl of BentoML's configuration: gRPC would not follow it; {ours}")


def _check_ports(found: settings.Settings) -> settings.Settings:
    """Refuses ports that are taken, and addresses that others reach without a key.

    Only the process that is about to start workers knows the address of HTTP; workers are told who may call.
    """
    context = click.get_current_context(silent=True)
    if context is None or context.info_name not in ("serve", "serve-http"):
        return found
    host, port = context.params.get("host") or HOST, context.params.get("port") or PORT
    hosts = {"--host": host} | ({"VIGIL_GRPC_HOST": found.grpc_host} if found.grpc_port else {})
    access = gate.resolve(found, hosts)
    os.environ["VIGIL_ACCESS"] = access
    taken = [(host, port, "--port")]
    if found.grpc_port:
        taken.append((found.grpc_host, found.grpc_port, "VIGIL_GRPC_PORT"))
    for host, number, key in taken:
        until_s = time.monotonic() + WAIT_S
        while (failure := _bind(host, number)) and failure.errno == errno.EADDRINUSE and time.monotonic() < until_s:
            time.sleep(0.05)
        if failure:
            raise ConfigError(f"port {number} on {host}: {failure.strerror}; choose another by {key}")
    return found.model_copy(update={"access": access})


def _bind(host: str, port: int) -> OSError | None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as failure:
            return failure
    return None


def obey() -> None:
    """Lets a worker end with its supervisor; to be called in its process."""
    context, given = click.get_current_context(silent=True), os.environ.pop(lifeline.KEY, "")
    if given and context:
        lifeline.watch(given, context.params["fd"])


class Supervisor(circus.Arbiter):  # type: ignore[misc]
    """BentoML's arbiter, with three differences.

    It looks for dead workers every `CHECK_S`: BentoML's own pace is ten seconds, and not to be set. Its workers
    notice its death. When it stops, it closes the port without a loss before it tells its workers.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "check_delay": CHECK_S})
        theirs = lifeline.hold()
        for watcher in self.watchers:
            watcher.env[lifeline.KEY] = theirs

    async def _stop_watchers(self, *args: Any, **kwargs: Any) -> None:
        if self._stopping:
            await drain([each for each in self.sockets.values() if not each.is_unix])
        await super()._stop_watchers(*args, **kwargs)
