"""The port for control calls: of this machine alone, beside the service's own."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from uvicorn.config import Config
from uvicorn.server import Server

from vigil.errors import ConfigError

HOST = "127.0.0.1"


class ControlPort:
    """A second port of a worker.

    Args:
        lane: the application.
        protocol: what makes its connections.
        port: of the loopback interface.
    """

    def __init__(self, lane: Any, protocol: Any, port: int) -> None:
        config = Config(lane, http=protocol, lifespan="off", log_config=None, access_log=False, proxy_headers=False)
        self._server, self._port = Server(config), port
        self._serving: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Takes the port. Needs a running loop.

        Raises:
            ConfigError: where it is taken.
        """
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, self._port))
            listening.listen()
        except OSError as failure:
            listening.close()
            raise ConfigError(f"VIGIL_ADMIN_PORT={self._port}: {failure.strerror}; choose another") from None
        # Not `serve`: that takes the process's signals, which are the service's.
        self._serving = asyncio.get_running_loop().create_task(self._server._serve([listening]))

    async def close(self) -> None:
        """Ends it."""
        self._server.should_exit = True
        if self._serving:
            await self._serving
