"""The rooms and arrows of docs/architecture.md, held against the imports in the code."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("vigil", "training", "optimize", "model_store", "loadtest", "testbed", "monitoring", "service")

# From the ground up: a module imports from its own room and from floors below, never from beside it or from above.
# A room is a package or a file, and all in it that is no room of its own.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("vigil.errors", "vigil.host", "vigil.descriptors", "vigil.progress"),
    ("vigil.settings", "vigil.domains", "vigil.transports.proto"),
    ("vigil.observe", "model_store"),
    ("vigil.access", "vigil.features.history", "vigil.features.compiled", "vigil.scoring", "vigil.decisions"),
    ("vigil.features.memory",),
    ("vigil.features.shared",),
    ("vigil.features",),
    ("vigil.engine", "training", "optimize"),
    ("vigil.transports", "vigil.stream"),
    ("vigil.transports.grpc", "vigil.transports.http", "vigil.stream.kafka"),
    ("vigil.stream.run", "vigil.feed", "vigil.serving"),
    ("vigil.replay", "service"),
    ("vigil.cli",),
    ("testbed", "monitoring"),
    ("loadtest",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Rooms of one subject know only what they need of those below: who may import from these.
ONLY: dict[str, set[str]] = {
    "vigil.engine": {"vigil.transports", "vigil.stream", "vigil.serving", "loadtest"},
    "vigil.scoring": {"vigil.engine", "vigil.transports", "vigil.serving", "vigil.replay", "loadtest"},
    "vigil.decisions": {
        "vigil.engine",
        "vigil.transports",
        "vigil.serving",
        "vigil.stream",
        "vigil.replay",
        "loadtest",
    },
    "vigil.features": {"vigil.engine", "vigil.stream", "vigil.serving", "vigil.cli", "training", "loadtest"},
    "vigil.serving": {"service"},
    "vigil.transports.http": {"service"},
    "vigil.transports.grpc": {"vigil.serving"},
    "training": {"loadtest"},
    "optimize": set(),
    "service": set(),
}
HEAVY = {"tensorflow", "keras", "tf2onnx", "onnx", "polars", "sklearn", "matplotlib", "pandas"}


def modules() -> dict[str, Path]:
    found = {"service": ROOT / "service.py"}
    for top in OURS[:-1]:
        for path in sorted((ROOT / top).rglob("*.py")):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def room_of(module: str) -> str:
    """The innermost room a module is in; "" for the package `vigil` itself."""
    parts = module.split(".")
    prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in FLOOR_OF), "")


def imported(module: str) -> Iterator[str]:
    """Modules of ours that a module imports, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in MODULES or node.module in MODULES:
                    yield inner if inner in MODULES else str(node.module)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downwards(module: str) -> None:
    room = room_of(module)
    assert room or module == "vigil", f"{module} is in no room: name its floor"
    for name in imported(module):
        other = room_of(name)
        if other in ("", room):
            continue
        below = FLOOR_OF[other] < FLOOR_OF[room]
        assert below, f"{module} imports {name}: {other} is not on a floor below {room}"
        allowed = {who for subject, who in ONLY.items() if (other + ".").startswith(subject + ".") for who in who}
        subjects = [subject for subject in ONLY if (other + ".").startswith(subject + ".")]
        inside = any((room + ".").startswith(subject + ".") for subject in subjects)
        if subjects and not inside:
            assert any((room + ".").startswith(who + ".") for who in allowed), (
                f"{module} imports {name}: of {subjects[-1]} only {', '.join(sorted(allowed)) or 'nobody'} knows"
            )


def test_no_files_import_each_other_in_a_circle() -> None:
    arrows = {module: set(imported(module)) - {module} for module in MODULES}
    while leaves := {module for module, names in arrows.items() if not names & arrows.keys()}:
        arrows = {module: names for module, names in arrows.items() if module not in leaves}
    assert not arrows, f"in circles, or above one: {', '.join(sorted(arrows))}"


def test_every_room_is_there() -> None:
    assert set(FLOOR_OF) <= set(MODULES)
    assert set(ONLY) <= set(FLOOR_OF)


def test_serving_imports_nothing_heavy() -> None:
    script = "import sys, vigil.serving.process, vigil.engine, vigil.features.open; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not HEAVY & {name.split(".")[0] for name in loaded.stdout.split()}
