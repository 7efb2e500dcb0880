"""Settings: `VIGIL_*` environment variables, read once, frozen; a typo or a bad value stops the start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vigil.errors import ConfigError, shown

PREFIX = "VIGIL_"
MEMORY = "memory:"


class Settings(BaseModel):
    """All that can be set from outside. Units are in the names; the environment key is `VIGIL_` + upper case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state_dir: Path = Field(default=Path("state"), description="where feature state, reports and locks live")
    state_url: Annotated[str, Field(pattern=r"^(memory:|rediss?(\+cluster)?://\S+)$")] = Field(
        default=MEMORY,
        description="feature state: memory: (one process, snapshot in VIGIL_STATE_DIR), or shared by any number: "
        "redis://, redis+cluster://, with TLS rediss://, rediss+cluster://",
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
    workers: int = Field(default=1, ge=1, le=64, description="service processes; more than one needs shared state")
    http_lane: Literal["protocol", "asgi"] = Field(
        default="protocol", description="who answers scoring over HTTP: the protocol itself (fast) or plain ASGI"
    )
    stall_s: float = Field(
        default=30.0, gt=0, description="how long an HTTP request may take to arrive, and its answer to be taken"
    )
    grpc_host: str = Field(default="127.0.0.1", description="address the gRPC server listens on")
    grpc_port: int = Field(default=3001, ge=0, le=65535, description="gRPC port; 0 switches gRPC off")
    grpc_server: Literal["auto", "native", "grpcio"] = Field(
        default="auto",
        description="native (pygrpc-native), grpcio, or auto: native if installed and callers are on this machine",
    )
    max_body_bytes: int = Field(default=4 << 20, ge=1024, description="largest HTTP body or gRPC message")
    max_queue: int = Field(default=32_768, ge=1, description="most rows that wait for the model; beyond it, 429")
    max_wait_ms: int = Field(
        default=20, ge=1, description="most time that what waits may be expected to take, as measured; beyond it, 429"
    )
    max_batch: int = Field(default=1024, ge=1, description="most rows the model is given at once")
    max_future_s: int = Field(default=86_400, ge=0, description="how far an event's ts may be ahead of the clock")
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


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Reads the settings from `environ` (default: the process's environment).

    Raises:
        ConfigError: for an unknown `VIGIL_*` key or a value that cannot be, naming key, value and what was wanted.
    """
    source = os.environ if environ is None else environ
    given = {key[len(PREFIX) :].lower(): value for key, value in source.items() if key.startswith(PREFIX)}
    try:
        return Settings.model_validate(given)
    except ValidationError as failure:
        raise ConfigError("\n".join(_line(error, given) for error in failure.errors())) from None


def _line(error: object, given: Mapping[str, str]) -> str:
    assert isinstance(error, dict)
    name = str(error["loc"][0])
    key = PREFIX + name.upper()
    if error["type"] == "extra_forbidden":
        known = ", ".join(PREFIX + field.upper() for field in Settings.model_fields)
        return f"{key}={shown(given[name])}: no such setting; there are {known}"
    field = Settings.model_fields[name]
    return f"{key}={shown(given.get(name))}: {error['msg']} ({field.description})"
