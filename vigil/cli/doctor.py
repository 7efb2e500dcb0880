"""Is this machine ready, and if not, what is to be done?"""

from __future__ import annotations

import importlib.util
import os
import platform
import socket
import sys
from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

import model_store
from vigil import domains, host, settings
from vigil.access import gate, keys
from vigil.errors import VigilError
from vigil.features.memory.durable import State, folder_of
from vigil.features.shared.store import SharedState

Finding = tuple[str, bool, str]

SERVING = ("bentoml", "onnxruntime", "msgspec", "grpc", "tritonclient", "uvloop", "httptools")
TRAINING = ("tensorflow", "keras", "tf2onnx", "onnx", "polars", "sklearn")


def health() -> tuple[Table, bool]:
    """A table of findings, and whether all is well."""
    table = Table(title="vigil doctor", title_justify="left")
    for column in ("what", "", "finding"):
        table.add_column(column)
    well = True
    for check in (_python, _packages, _settings, _access, _state, _models, _ports):
        try:
            findings = list(check())
        except VigilError as failure:
            findings = [(check.__name__.strip("_"), False, str(failure))]
        for what, good, finding in findings:
            well &= good
            table.add_row(what, Text("ok", "green") if good else Text("look", "bold red"), finding)
    return table, well


def _python() -> Iterator[Finding]:
    oldest, beyond = host.PYTHONS
    wanted = f"wanted 3.{oldest[1]} to 3.{beyond[1] - 1}"
    yield "python", oldest <= sys.version_info[:2] < beyond, f"{platform.python_version()}, {wanted}"
    yield "processors", True, f"{host.processors()} of {os.cpu_count() or 'an unknown number'} usable"


def _packages() -> Iterator[Finding]:
    for what, names, remedy in (("serving", SERVING, "serve.txt"), ("training", TRAINING, "train.txt")):
        missing = [name for name in names if importlib.util.find_spec(name) is None]
        lacking = f"missing {', '.join(missing)}: install requirements/{remedy}, or run make setup"
        yield f"packages for {what}", not missing, lacking if missing else "all there"


def _settings() -> Iterator[Finding]:
    found = settings.load()
    store = found.state_url if found.state_url == settings.MEMORY else settings.redact(found.state_url)
    yield "settings", True, f"state in {found.state_dir.resolve()}, {store} store, alias {found.model_alias}"


def _access() -> Iterator[Finding]:
    found = settings.load()
    known = keys.read(gate.keys_path(found))
    hosts = {"BENTOML_HOST": os.environ.get("BENTOML_HOST", "127.0.0.1"), "VIGIL_GRPC_HOST": found.grpc_host}
    mode = gate.resolve(found, hosts)
    said = {
        "keys": f"{len(known)} keys in {gate.keys_path(found)}",
        "local": "no keys: anyone on this machine may call, and no page of the web",
        "open": "VIGIL_ACCESS=open: anyone who reaches the ports may call, unload models and read records",
    }
    yield "access", mode != "open", said[mode]
    reached = [f"{name}={host}" for name, host in hosts.items() if not settings.is_loopback(host)]
    yield "listens", True, f"beyond this machine: {', '.join(reached)}" if reached else "to this machine alone"


def _models() -> Iterator[Finding]:
    found = settings.load()
    for domain in domains.select(found.domains):
        try:
            stored = model_store.resolve(domain.name, found.model_alias)
            model_store.verify(stored, domain, found.model_trust)
            signed = ", signed by one who is trusted" if found.model_trust else ""
            yield f"model {domain.name}", True, f"{stored.tag}, digest and feature spec match{signed}"
        except VigilError as failure:
            yield f"model {domain.name}", False, str(failure)


def _state() -> Iterator[Finding]:
    found = settings.load()
    for domain in domains.select(found.domains):
        if found.state_url != settings.MEMORY:
            with SharedState(domain, found) as shared:
                problem = shared.store.problem
            yield f"state {domain.name}", not problem, problem or f"{shared.store.link.shown} answers"
            continue
        if not folder_of(domain, found).exists():
            yield f"state {domain.name}", True, "empty: every customer is new"
            continue
        try:
            state = State(domain, found)
            state.abandon()
            yield f"state {domain.name}", True, f"{state.store.count:,} entities"
        except VigilError as failure:
            yield f"state {domain.name}", False, str(failure)


def _ports() -> Iterator[Finding]:
    for what, port in (("port HTTP", 3000), ("port gRPC", settings.load().grpc_port)):
        yield what, *_port(port)


def _port(port: int) -> tuple[bool, str]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as failure:
            return False, f"{port} is in use ({failure.strerror}): by a running service, or choose another"
    return True, f"{port} is free"
