"""Settings: `VIGIL_*` environment variables, read once, frozen; a typo or a bad value stops the start."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vigil.errors import ConfigError, quote

PREFIX = "VIGIL_"
MEMORY = "memory:"
HOST_NAME = re.compile(r"[\w-]{1,63}(\.[\w-]{1,63})*", re.ASCII)


class Settings(BaseModel):
    """All that can be set from outside. Units are in the names; the environment key is `VIGIL_` + upper case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state_dir: Path = Field(default=Path("state"), description="where feature state, reports and locks live")
    state_url: Annotated[str, Field(pattern=r"^(memory:|rediss?(\+cluster)?://\S+)$")] = Field(
        default=MEMORY,
        repr=False,  # it may hold a password
        description="feature state: memory: (one process, snapshot in VIGIL_STATE_DIR), or shared by any number: "
        "redis://, redis+cluster://, with TLS rediss://, rediss+cluster://; `@file`: as in that file",
    )
    state_timeout_ms: int = Field(
        default=250,
        ge=1,
        description="longest wait of a round trip to shared feature state; then rules answer, degraded",
    )
    domains: str = Field(
        default="", description="comma-separated domains to serve (shipped names or importable modules); all shipped"
    )
    model_alias: str = Field(default="champion", description="alias of the model to serve, as in payments@champion")
    model_trust: Path | None = Field(
        default=None,
        description="PEM file, or folder of them, of public keys and authorities: only models that they have signed "
        "are loaded or promoted",
    )
    model_key: Path | None = Field(
        default=None, description="PEM file of the private key that `vigil optimize` signs models with"
    )
    model_certificate: Path | None = Field(
        default=None, description="PEM file of its certificate, and those between it and an authority"
    )
    workers: int = Field(default=1, ge=1, le=64, description="service processes; more than one needs shared state")
    access: Literal["auto", "keys", "local", "open"] = Field(
        default="auto",
        description="who may call: keys (their holders), local (this machine, no page of the web), open (anyone), or "
        "auto: keys where there are some, else local, and no start where others could call",
    )
    keys_file: Path | None = Field(
        default=None, description="file of API keys (`vigil keys`); default: keys.json in VIGIL_STATE_DIR"
    )
    allowed_hosts: str = Field(
        default="", description="comma-separated names that `Host` and `Origin` may have, such as a proxy's"
    )
    admin_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="port on 127.0.0.1 that alone answers what needs the scope admin (load, unload); 0: all do",
    )
    jwt_keys: str = Field(
        default="", description="keys of an OpenID Connect issuer whose tokens are believed: a JWKS file or https URL"
    )
    jwt_issuer: str = Field(default="", description="its name, as in the tokens' `iss`")
    jwt_audience: str = Field(default="", description="for whom tokens have to be issued: their `aud`")
    jwt_scopes: str = Field(default="scope", description="claim of the tokens that lists scopes")
    client_key: str = Field(
        default="",
        repr=False,
        description="API key that Vigil's own clients send (`vigil simulate`, load tests); `@file`: in that file",
    )
    http_lane: Literal["protocol", "asgi"] = Field(
        default="protocol", description="who answers scoring over HTTP: the protocol itself (fast) or plain ASGI"
    )
    stall_s: float = Field(
        default=30.0, gt=0, description="how long an HTTP request may take to arrive, and its answer to be taken"
    )
    max_connections: int = Field(
        default=0,
        ge=0,
        description="most HTTP connections of a worker (beyond it, 503), and most of gRPC by grpcio; "
        "0: as many as file descriptors allow",
    )
    max_connections_per_address: int = Field(
        default=0, ge=0, description="most HTTP connections of one address to a worker; beyond it, 503; 0: any"
    )
    grpc_host: str = Field(default="127.0.0.1", description="address the gRPC server listens on")
    grpc_port: int = Field(default=3001, ge=0, le=65535, description="gRPC port; 0 switches gRPC off")
    grpc_server: Literal["auto", "native", "grpcio"] = Field(
        default="auto",
        description="native (pygrpc-native), grpcio, or auto: native if installed and callers are on this machine",
    )
    grpc_connection_age_s: float = Field(
        default=0.0,
        ge=0,
        description="age at which a gRPC client is asked to connect anew, once its calls have ended; 0: never",
    )
    tls_cert: Path | None = Field(
        default=None, description="PEM file of the certificate and its chain: HTTP and gRPC speak TLS"
    )
    tls_key: Path | None = Field(default=None, description="PEM file of its key, without a password")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM file of authorities: clients must present a certificate of one of them"
    )
    max_body_bytes: int = Field(default=4 << 20, ge=1024, description="largest HTTP body or gRPC message")
    max_buffered_bytes: int = Field(
        default=64 << 20, ge=1 << 20, description="most bytes of bodies that came and answers not taken; beyond it, 429"
    )
    max_queue: int = Field(default=32_768, ge=1, description="most rows that wait for the model; beyond it, 429")
    max_wait_ms: int = Field(
        default=20, ge=1, description="most time that what waits may be expected to take, as measured; beyond it, 429"
    )
    max_batch: int = Field(default=1024, ge=1, description="most rows the model is given at once")
    max_future_s: int = Field(
        default=86_400, ge=0, description="how far an event's ts may be ahead of the clock; at most the domain's grace"
    )
    max_past_s: int | None = Field(
        default=None, ge=0, description="how far an event's ts may be behind the domain's newest; default: its grace"
    )
    drain_s: float = Field(default=10.0, ge=0, description="how long a stopping worker waits for gRPC calls in flight")
    journal_max_bytes: int = Field(
        default=256 << 20, ge=1 << 16, description="size at which the state journal is folded into the snapshot"
    )
    journal_fsync_ms: int = Field(default=1000, ge=0, description="how often the journal is forced to disk; 0: never")
    records: bool = Field(
        default=True, description="whether the service keeps a record of each decision, in VIGIL_STATE_DIR"
    )
    records_days: float = Field(default=30.0, gt=0, description="how long they are kept")
    records_max_bytes: int = Field(
        default=1 << 30, ge=1 << 20, description="most bytes they take, of all workers of a machine together"
    )
    rate_limit: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="events or calls a second that one key, or one address without a key, may send; beyond it, 429; "
        "0: no limit",
    )
    rate_burst: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="how many of them may come at once after a pause; 0: as many as in a second",
    )
    audit_key_file: Path | None = Field(
        default=None, description="file of a secret, 16 bytes or more, that the audit log is sealed with"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="lines of the log: text or json")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least level of the log: debug, info, warning or error"
    )
    access_log: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of requests that the access log holds; above 0, it holds every 5xx",
    )
    kafka_properties: Path | None = Field(
        default=None, description="file of key=value lines for Kafka's clients: security.protocol, sasl.*, ssl.*"
    )
    stream_member: str = Field(
        default="", description="name under which a stream worker comes back; default: of host and state"
    )
    stream_align_ms: int = Field(
        default=5000, ge=0, description="how long a stream waits for a partition that lags behind the others in time"
    )
    stream_metrics_host: str = Field(default="127.0.0.1", description="address of a stream worker's /metrics")
    stream_metrics_port: int = Field(default=0, ge=0, le=65535, description="port of it; 0: none")

    @field_validator("grpc_host")
    @classmethod
    def _host(cls, host: str) -> str:
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        try:
            return str(ip_address(bare))
        except ValueError:
            if HOST_NAME.fullmatch(host):
                return host
            raise ValueError("wanted an IPv4 or IPv6 address or a host name") from None

    @property
    def grpc_address(self) -> str:
        """Host and port of gRPC as one; an IPv6 address stands in brackets."""
        host = f"[{self.grpc_host}]" if ":" in self.grpc_host else self.grpc_host
        return f"{host}:{self.grpc_port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine's own callers reach `host`, an address or a name."""
    try:
        return host == "localhost" or ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _from_file(key: str, value: str) -> str:
    """What a secret's value is, or what is in the file that it names as `@file`.

    Raises:
        ConfigError: where the file cannot be read.
    """
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text().strip()
    except (OSError, UnicodeDecodeError) as failure:
        raise ConfigError(f"{key}={quote(value)}: {failure}; wanted a file that can be read") from None


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Reads the settings from `environ` (default: the process's environment).

    Raises:
        ConfigError: for an unknown `VIGIL_*` key or a value that cannot be, naming key, value and what was wanted.
    """
    source = os.environ if environ is None else environ
    given = {key[len(PREFIX) :].lower(): value for key, value in source.items() if key.startswith(PREFIX)}
    for name, field in Settings.model_fields.items():
        if name in given and not field.repr:
            given[name] = _from_file(PREFIX + name.upper(), given[name])
    try:
        return Settings.model_validate(given)
    except ValidationError as failure:
        raise ConfigError("\n".join(_line(error, given) for error in failure.errors())) from None


def redact(url: str) -> str:
    """An address without its password, and without what may hold one."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.split('[/?#]', rest.rpartition('@')[2])[0]}"


def _line(error: object, given: Mapping[str, str]) -> str:
    assert isinstance(error, dict)
    name = str(error["loc"][0])
    key = PREFIX + name.upper()
    if error["type"] == "extra_forbidden":
        known = ", ".join(PREFIX + field.upper() for field in Settings.model_fields)
        return f"{key}={quote(given[name])}: no such setting; there are {known}"
    field, value = Settings.model_fields[name], given.get(name, "")
    shown = value if field.repr else redact(value) if "://" in value else "..."
    return f"{key}={quote(shown)}: {error['msg']} ({field.description})"
