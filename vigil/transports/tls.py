"""TLS of both ports, from one pair of files that is read again when it changes."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from vigil.errors import ConfigError
from vigil.settings import Settings

if TYPE_CHECKING:
    import grpc

logger = logging.getLogger(__name__)


class _Loaded(NamedTuple):
    """The files as they were read: for HTTP as a context, for gRPC as PEM."""

    context: ssl.SSLContext
    cert: bytes
    key: bytes
    client_ca: bytes | None


class Certificates:
    """The service's certificate. Each handshake gets the newest files that fit together.

    Args:
        cert: PEM file of the certificate, with the chain behind it.
        key: PEM file of its key, without a password.
        client_ca: PEM file of the authorities whose clients are let in; None: clients need no certificate.

    Raises:
        ConfigError: in one line, for a file that cannot be read or a key of another certificate.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._lock = Lock()
        self._seen = self._stamps()
        self._loaded = self._load()

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """The certificate that the settings name; None where they name none.

        Raises:
            ConfigError: for half a pair, an authority without a certificate, or files as above.
        """
        cert, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
        if cert and key:
            return cls(cert, key, client_ca)
        for name, value, missing in (
            ("VIGIL_TLS_CERT", cert, "VIGIL_TLS_KEY"),
            ("VIGIL_TLS_KEY", key, "VIGIL_TLS_CERT"),
            ("VIGIL_TLS_CLIENT_CA", client_ca, "VIGIL_TLS_CERT and VIGIL_TLS_KEY"),
        ):
            if value:
                raise ConfigError(f"{name}={value}: set {missing} too")
        return None

    def context(self) -> ssl.SSLContext:
        """A context for servers of asyncio or uvloop; it stays up to date."""
        return _Newest(self)

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials for grpcio's server; they stay up to date."""
        import grpc

        last = self.newest()

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal last
            if (found := self.newest()) is last:
                return None
            last = found
            return _configuration(found)

        return grpc.dynamic_ssl_server_credentials(_configuration(last), fetch, self._client_ca is not None)

    def newest(self) -> _Loaded:
        """The files as they are now; where these do not fit together, as they last did."""
        with self._lock:  # gRPC asks from threads of its own
            stamps = self._stamps()
            if stamps != self._seen:
                self._seen = stamps
                try:
                    self._loaded = self._load()
                    logger.info("TLS: read %s again", self._cert)
                except ConfigError as failure:
                    logger.warning("TLS: the certificate in use stays: %s", failure)
            return self._loaded

    def _stamps(self) -> list[tuple[int, ...]]:
        return [_stamp(path) for path in (self._cert, self._key, self._client_ca) if path]

    def _load(self) -> _Loaded:
        cert, key = _read("VIGIL_TLS_CERT", self._cert), _read("VIGIL_TLS_KEY", self._key)
        client_ca = _read("VIGIL_TLS_CLIENT_CA", self._client_ca) if self._client_ca else None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._cert, self._key, password="")  # else OpenSSL asks the terminal
        except (OSError, ValueError) as failure:
            raise ConfigError(f"VIGIL_TLS_CERT={self._cert}, VIGIL_TLS_KEY={self._key}: {_reason(failure)}") from None
        if client_ca:
            try:
                context.load_verify_locations(cadata=client_ca.decode("ascii"))
            except (OSError, ValueError) as failure:
                raise ConfigError(f"VIGIL_TLS_CLIENT_CA={self._client_ca}: {_reason(failure)}") from None
            context.verify_mode = ssl.CERT_REQUIRED
        return _Loaded(context, cert, key, client_ca)


class _Newest(ssl.SSLContext):
    """Begins each connection with the newest context, as a live one can drop neither a key nor an authority."""

    _certificates: Certificates

    def __new__(cls, certificates: Certificates) -> Self:
        made = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        made._certificates = certificates
        return made

    def __init__(self, certificates: Certificates) -> None:
        super().__init__()

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return self._certificates.newest().context.wrap_bio(*args, **kwargs)


def grpc_peer(context: Any) -> tuple[str, ...]:
    """Names in the verified certificate of a gRPC call's client; none without one.

    Args:
        context: of the call.

    Returns:
        The common name, if there is one, then the alternative names: DNS names, addresses, URIs such as SPIFFE's.
    """
    found: Mapping[str, Iterable[bytes]] = context.auth_context()
    names = (*found.get("x509_common_name", ()), *found.get("x509_subject_alternative_name", ()))
    return tuple(dict.fromkeys(name.decode(errors="replace") for name in names))


def http_peer(transport: Any) -> tuple[str, ...]:
    """Names in the verified certificate of an HTTP connection's client, as `grpc_peer` gives them.

    Args:
        transport: of the connection.
    """
    found = transport.get_extra_info("peercert") or {}
    common = [value for part in found.get("subject", ()) for kind, value in part if kind == "commonName"]
    return tuple(dict.fromkeys((*common, *(value for _, value in found.get("subjectAltName", ())))))


def _configuration(loaded: _Loaded) -> grpc.ServerCertificateConfiguration:
    import grpc

    return grpc.ssl_server_certificate_configuration([(loaded.key, loaded.cert)], loaded.client_ca)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as failure:
        raise ConfigError(f"{name}={path}: {failure.strerror}") from None


def _reason(failure: Exception) -> str:
    if not isinstance(failure, ssl.SSLError):
        return str(failure)
    if failure.reason == "KEY_VALUES_MISMATCH":
        return "the key is not the certificate's"
    return "wanted PEM, a key without a password"
