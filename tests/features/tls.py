"""TLS for the tests of shared state: certificates, and what speaks TLS before servers that were built without it."""

from __future__ import annotations

import asyncio
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlencode

import trustme


@dataclass(frozen=True)
class Certificates:
    """PEM files of one authority: its own, the server's, a client's; key and certificate of each in one file."""

    authority: Path
    server: Path
    client: Path

    @classmethod
    def made(cls, folder: Path, *names: str) -> Certificates:
        """Certificates of a server of these names."""
        authority = trustme.CA()
        made = cls(folder / "authority.pem", folder / "server.pem", folder / "client.pem")
        authority.cert_pem.write_to_path(str(made.authority))
        authority.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(str(made.server))
        authority.issue_cert("vigil@example.org").private_key_and_cert_chain_pem.write_to_path(str(made.client))
        return made

    def query(self, *names: str) -> str:
        """What an address says of them: its parameters of these names."""
        files = {"ssl_ca_certs": self.authority, "ssl_certfile": self.client}
        return "?" + urlencode({name: files[name] for name in names})


class Terminator:
    """Speaks TLS on `port`, asks its callers for a certificate, and passes on what they say to a server.

    Args:
        port: to listen on.
        to: the port of the server.
        certificates: its own, and the authority of those it takes.
    """

    def __init__(self, port: int, to: int, certificates: Certificates) -> None:
        self.port, self._to = port, to
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.authority))
        self._context.load_cert_chain(certificates.server)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._listens, self._ended = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listens.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    async def _listen(self) -> None:
        self._loop = asyncio.get_running_loop()
        await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._context)
        self._listens.set()
        await self._ended.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._to)
        with suppress(asyncio.CancelledError):  # at the end
            await asyncio.gather(_pump(reader, to_server), _pump(from_server, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while some := await reader.read(1 << 16):
            writer.write(some)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
