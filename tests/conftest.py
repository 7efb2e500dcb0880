"""What all tests share."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from vigil import host

ROOT = Path(__file__).parent.parent
CLIENTS = ROOT / "build" / "clients"
TOOLS = ROOT / "build" / "tools"

# What takes longest, the longest first: begun first, so that no worker is alone with it at the end. Marked `slow`.
SLOW = (
    "test_whole_path.py",
    "features/test_parity.py",
    "features/test_transfer.py",
    "features/test_shared.py",
    "stream",
    "training",
    "test_documents.py",
    "serving",
    "features/test_windows.py",
    "loadtest/test_load.py",
    "loadtest/test_capacity.py",
    "optimize",
    "features/test_resharding.py",
    "monitoring",
    "helm",
    "transports/test_decoders_fuzz.py",
    "transports/test_traces.py",
    "replay",
    "deploy",
    "cluster",
    "test_docs_site.py",
    "test_lock.py",
    "test_skips.py",
    "test_contributing.py",
    "decisions/test_archive.py",
    "features/test_tls.py",
    "features/test_handbook.py",
    "loadtest/test_paced.py",
    "loadtest/test_ports.py",
)


def part(path: Path, remedy: str) -> str:
    """The path of a part that a test needs; without it the test is skipped, with what brings it."""
    if not path.exists():
        pytest.skip(f"{path.relative_to(ROOT)} is missing: {remedy}")
    return str(path)


def tool(name: str) -> str:
    """The path of a program that `make tools` fetches; as :func:`part` where it is missing."""
    return part(TOOLS / name, "`make tools` fetches it, or says what it needs")


@pytest.fixture(scope="session", autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A home of BentoML's for each process of tests: a service empties what others of the same home tell Prometheus."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(tmp_path_factory.mktemp("bentoml")))
        yield


@pytest.fixture(autouse=True)
def own_level() -> None:
    """Python's own level of logs for each test: `vigil optimize` raises it for the process that it is run in."""
    logging.getLogger().setLevel(logging.WARNING)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--order", type=int, metavar="SEED", help="files, and tests within each, in an order by this seed")


def pytest_xdist_auto_num_workers() -> int:
    """One more than processors: much of a test is waiting."""
    return host.processors() + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what is slow, and begins with it, or takes any order."""
    ranks = {ROOT / "tests" / name: rank for rank, name in enumerate(SLOW)}
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    found = {path: [ranks[at] for at in (path, *path.parents) if at in ranks] for path in files}
    for path, rank in found.items():
        for item in files[path] if rank else ():
            item.add_marker("slow")
    ordered = sorted(files, key=lambda path: min(found[path], default=len(SLOW)))
    if (seed := config.getoption("order")) is not None:
        chosen = random.Random(seed)
        chosen.shuffle(ordered)
        for some in files.values():
            chosen.shuffle(some)
    items[:] = [item for path in ordered for item in files[path]]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under `CI=true` a run that left out a test has failed: a machine of CI has every part."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and os.environ.get("CI") == "true" and (skipped := len(reporter.stats.get("skipped", ()))):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"{skipped} skipped, and in CI none may be", red=True, bold=True)
