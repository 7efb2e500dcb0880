"""Decision records of a small model, as an engine makes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

import model_store
from testbed import tiny_model
from vigil import domains
from vigil.engine import Engine, limits_of
from vigil.features.memory.store import MemoryStore
from vigil.scoring.served import ServedModel
from vigil.scoring.session import Session
from vigil.settings import Settings

DOMAIN = domains.load("payments")
NOW_MS = 1_538_400_000_000
EVENTS = 6000


@dataclass
class Recorded:
    """Versions of two models, and the records of the first one's decisions."""

    versions: tuple[str, str]
    lines: list[bytes]


def events(count: int) -> list[dict[str, Any]]:
    return [
        {
            "event_id": f"e{i}",
            "ts": NOW_MS + i * 1000,
            "customer": i % 40,
            "terminal": i % 30,
            "amount": 1.0 + (i * 7919 % 30_000) / 100,
        }
        for i in range(count)
    ]


def decided(session: Session | None, values: list[dict[str, Any]], with_features: bool = True) -> list[bytes]:
    """Records of the decisions on events."""
    model = ServedModel(DOMAIN, "champion", limits_of(Settings()), lambda: NOW_MS, session)
    engine = Engine(DOMAIN, Settings(), MemoryStore(DOMAIN), model, lambda: NOW_MS, lambda: None)
    made = [engine.schema.make(each) for each in values]
    return engine.records(engine.decide(made, NOW_MS), map(msgspec.json.encode, made), with_features)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BENTOML_HOME with two models, the second the champion."""
    return tmp_path_factory.mktemp("replay")


@pytest.fixture(scope="session")
def made(home: Path) -> Recorded:
    """Both models, and records of the first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(home))
        tags = [tiny_model.store(home, DOMAIN, seed) for seed in (1, 2)]
        first, second = (tag.partition(":")[2] for tag in tags)
        assert model_store.resolve("payments").manifest.version == second
        lines = decided(Session.load(DOMAIN, first, 1024), events(EVENTS))
    return Recorded((first, second), lines)


@pytest.fixture
def recorded(made: Recorded, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    """The same, with BENTOML_HOME set."""
    monkeypatch.setenv("BENTOML_HOME", str(home))
    return made
