"""States move between memory, disk and servers without a bit changing."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from testbed.valkey import Valkey, ValkeyCluster
from tests.features.every_feature import DOMAIN
from tests.features.shared_stores import emptied, store_at
from vigil import cli, domains
from vigil.domains.schema import Feedback
from vigil.features import transfer
from vigil.features.memory.store import MemoryStore
from vigil.features.open import open_state
from vigil.settings import Settings

START = 1_600_000_000_000
MINUTE = 60_000


@pytest.fixture(params=["valkey", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    servers: Valkey | ValkeyCluster = request.getfixturevalue(request.param)
    return emptied(servers)


def fill(store: Any, first: int, last: int) -> list[tuple[bytes, list[int]]]:
    """Events `first` to `last`, some of them again, some late, with labels before and after; what came of them."""
    rng, answers = random.Random(first), []
    for i in range(first, last):
        values = {
            "event_id": i if rng.random() < 0.9 else rng.randint(0, i),
            "ts": START + (i - rng.choice([0, 0, 0, 30])) * 20 * MINUTE,
            "a": rng.choice("xyz"),
            "b": f"b{rng.randint(0, 40)}",
            "amount": rng.randint(1, 900) / 100,
        }
        rows, status = store.apply_events([MemoryStore(DOMAIN).schema.make(values)])
        answers.append((rows.tobytes(), status.tolist()))
        if rng.random() < 0.3:
            answers.append((b"", store.feedback([Feedback(rng.randint(0, i + 50), rng.randint(0, 1))]).tolist()))
    return answers


@pytest.fixture(scope="module")
def expected() -> list[tuple[bytes, list[int]]]:
    store = MemoryStore(DOMAIN)
    fill(store, 0, 400)
    return fill(store, 400, 500)


def test_a_state_from_memory_goes_on_the_same_on_servers(
    url: str, tmp_path: Path, expected: list[tuple[bytes, list[int]]]
) -> None:
    held = open_state(DOMAIN, Settings(state_dir=tmp_path))
    fill(held.store, 0, 400)
    held.close()
    transfer.export(DOMAIN, Settings(state_dir=tmp_path), tmp_path / "out", lambda done: None)
    transfer.install(transfer.load(DOMAIN, tmp_path / "out"), Settings(state_url=url), False, lambda done: None)
    store = store_at(url)
    assert fill(store, 400, 500) == expected
    store.link.close()


def test_a_state_from_servers_goes_on_the_same_in_memory(
    url: str, tmp_path: Path, expected: list[tuple[bytes, list[int]]]
) -> None:
    store = store_at(url)
    fill(store, 0, 400)
    store.link.close()
    transfer.export(DOMAIN, Settings(state_url=url), tmp_path / "out", lambda done: None)
    settings = Settings(state_dir=tmp_path / "state")
    transfer.install(transfer.load(DOMAIN, tmp_path / "out"), settings, False, lambda done: None)
    held = open_state(DOMAIN, settings)
    assert fill(held.store, 400, 500) == expected
    held.close()


def test_what_is_remembered_without_features_moves_as_well(url: str, tmp_path: Path) -> None:
    domain = replace(DOMAIN, most_repeats=1 << 12)  # the smallest: of the oldest events the features are gone
    memory = MemoryStore(domain)
    events = [
        memory.schema.make({"event_id": i, "ts": START + i, "a": f"a{i % 50}", "b": "b", "amount": 1.0})
        for i in range(6000)
    ]
    memory.apply_events(events)
    transfer.install(memory, Settings(state_url=url), False, lambda done: None)
    store = store_at(url, domain)
    again = transfer.gather(store, lambda done: None)
    for item in (events[0], events[-1]):
        wanted = memory.apply_events([item])
        for other in (store, again):
            rows, status = other.apply_events([item])
            assert (rows.tobytes(), status.tolist()) == (wanted[0].tobytes(), wanted[1].tolist())
    store.link.close()


@pytest.mark.parametrize("where", ["memory", "valkey"])
def test_a_state_that_is_there_is_only_replaced_when_asked_to(
    where: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    found = Settings(state_dir=tmp_path)
    if where == "valkey":
        found = Settings(state_url=emptied(request.getfixturevalue("valkey")))
    one, other = MemoryStore(DOMAIN), MemoryStore(DOMAIN)
    fill(one, 0, 50)
    fill(other, 60, 90)
    assert transfer.install(one, found, False, lambda done: None)
    assert not transfer.install(other, found, False, lambda done: None)
    assert transfer.install(other, found, True, lambda done: None)
    state = open_state(DOMAIN, found)
    assert fill(state.store, 90, 100) == fill(other, 90, 100)
    state.close()


def test_the_command_line_rebuilds_exports_and_imports(
    valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payments = domains.load("payments")
    rows = [f"{i},2018-04-01T00:{i:02}:00Z,C{i % 3},T{i % 5},{i + 1}.5" for i in range(40)]
    data = tmp_path / "history.csv"
    data.write_text("\n".join(["event_id,ts,customer,terminal,amount", *rows]))
    event = MemoryStore(payments).schema.make(
        {"event_id": "next", "ts": "2018-04-01T01:00:00Z", "customer": "C1", "terminal": "T1", "amount": 9.0}
    )

    def run(*arguments: str) -> str:
        answer = CliRunner().invoke(cli.app, ["features", *arguments])
        assert answer.exit_code == 0, answer.output
        return answer.output

    def answered(settings: Settings) -> bytes:
        state = open_state(payments, settings)
        features, _ = state.store.apply_events([event])
        state.close()
        return bytes(features.tobytes())

    monkeypatch.setenv("VIGIL_STATE_DIR", str(tmp_path / "state"))
    assert "8 entities" in run("rebuild", "--data", str(data))
    run("export", "--to", str(tmp_path / "snapshot"))
    monkeypatch.setenv("VIGIL_STATE_URL", emptied(valkey))
    run("import", "--from", str(tmp_path / "snapshot"))
    run("export", "--to", str(tmp_path / "back"))
    refused = CliRunner().invoke(cli.app, ["features", "import", "--from", str(tmp_path / "back")])
    assert refused.exit_code == 1
    assert "--replace removes it" in " ".join(refused.output.split())
    wanted = answered(Settings(state_dir=tmp_path / "state"))
    assert answered(Settings(state_url=valkey.url)) == wanted
    run("rebuild", "--data", str(data), "--replace")
    assert answered(Settings(state_url=valkey.url)) == wanted
