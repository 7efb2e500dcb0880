"""The rooms and arrows of docs/architecture.md, held against the imports in the code."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BASE = {"vigil.errors", "vigil.settings", "vigil.metrics", "vigil.progress", "vigil.domains", "vigil.tracing"}

# Room -> the rooms it may import from, itself and BASE always included.
ARROWS: dict[str, set[str]] = {
    "vigil.errors": set(),
    "vigil.settings": set(),
    "vigil.metrics": {"vigil.tallies"},
    "vigil.tallies": set(),
    "vigil.tracing": {"vigil"},
    "vigil.logs": set(),
    "vigil.telemetry": {"vigil.logs", "vigil"},
    "vigil.progress": set(),
    "vigil.domains": set(),
    "vigil.features": set(),
    "vigil.scoring": {"model_store"},
    "vigil.decisions": set(),
    "vigil.engine": {"vigil.features", "vigil.scoring", "vigil.decisions"},
    "vigil.transports": {"vigil.engine", "vigil.decisions", "vigil.scoring", "vigil.telemetry", "vigil.logs", "vigil"},
    "vigil.stream": {"vigil.engine", "vigil.features", "vigil.decisions", "vigil.transports"},
    "vigil.replay": {"vigil.decisions", "vigil.scoring", "vigil.stream", "model_store"},
    "vigil.cli": {
        "vigil.features",
        "vigil.stream",
        "vigil.replay",
        "vigil.doctor",
        "vigil.model_tables",
        "model_store",
        "vigil",
    },
    "vigil.doctor": {"vigil.features", "model_store", "vigil"},
    "vigil.model_tables": {"model_store", "vigil"},
    "model_store": {"vigil"},
    "training": {"vigil.features", "vigil"},
    "optimize": {"model_store", "vigil"},
    "service": {"vigil.engine", "vigil.transports", "model_store", "vigil"},
}
HEAVY = {"tensorflow", "keras", "tf2onnx", "onnx", "polars", "sklearn", "matplotlib", "pandas"}


def modules() -> Iterator[tuple[str, Path]]:
    for top in ("vigil", "training", "optimize", "model_store"):
        for path in sorted((ROOT / top).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path
    yield "service", ROOT / "service.py"


def room_of(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "vigil" and len(parts) > 1 else parts[0]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "vigil")


@pytest.mark.parametrize(("module", "path"), [pytest.param(m, p, id=m) for m, p in modules()])
def test_imports_follow_the_arrows(module: str, path: Path) -> None:
    room = room_of(module)
    if room == "vigil":
        return
    allowed = ARROWS[room] | BASE | {room, "vigil"}
    ours = {"vigil", "training", "optimize", "model_store", "service", "loadtest"}
    for name in imported(path):
        if name.split(".")[0] in ours and not name.startswith("vigil.__"):
            assert room_of(name) in allowed, (
                f"{module} imports {name}: there is no arrow from {room} to {room_of(name)}"
            )


def test_every_room_is_on_the_map() -> None:
    assert {room_of(module) for module, _ in modules()} - {"vigil"} == set(ARROWS)


def test_serving_imports_nothing_heavy() -> None:
    script = "import sys, vigil.transports.worker, vigil.engine, vigil.features.state; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not HEAVY & {name.split(".")[0] for name in loaded.stdout.split()}
