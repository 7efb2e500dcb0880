"""A store of its own for each test, and a domain and files to fill it with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import model_store
from vigil.domains.spec import Domain, Entity, Number, Policy, Rules
from vigil.domains.windows import Count, Value


@pytest.fixture
def domain() -> Domain:
    rules = Rules(number="amount", limit=100.0, slope=0.01, intercept=0.0, threshold=0.5)
    return Domain(
        name="tills",
        entities=(Entity("till"),),
        numbers=(Number("amount", unit="euros", above=0.0),),
        features=(
            Value(name="amount", meaning="the amount", number="amount"),
            Count(name="count_1d", meaning="payments of the till in a day", of_entity="till", window_days=1.0),
        ),
        policy=Policy(review_at=0.5, block_at=0.9, rules=rules, money="amount", review_cost=1.0, block_cost=5.0),
        label_delay_days=7.0,
        example={"event_id": "e", "ts": 1_538_308_800_000, "till": 1, "amount": 1.0},
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def store_model(home: Path, tmp_path: Path, domain: Domain) -> Callable[..., str]:
    """Stores a file as a model; gives its version. The store never opens the file."""

    def store(
        content: bytes = b"a model", created: str = "2026-01-01T00:00:00Z", alias: str | None = "champion"
    ) -> str:
        source = tmp_path / "source.onnx"
        source.write_bytes(content)
        note = tmp_path / "optimization.md"
        note.write_text("# how it was made\n")
        tag = model_store.save(
            source,
            domain=domain.name,
            spec_hash=domain.spec_hash,
            feature_names=domain.feature_names,
            candidate="fp32 fused",
            metrics={"average_precision": 0.75},
            candidates=[{"name": "fp32 fused", "bytes": 7}],
            data_from="2018-04-01T00:00:00Z",
            data_to="2018-09-30T00:00:00Z",
            code_commit="abc",
            created=created,
            extra_files=[note],
            alias=alias,
        )
        return tag.partition(":")[2]

    return store
