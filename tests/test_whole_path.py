"""The whole path on a small world: train, optimize, serve, feed; and the same numbers everywhere on it."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import keras
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

import model_store
from testbed.served import LOCALHOST, Served
from vigil import domains
from vigil.domains.simulation import simulate
from vigil.features.history import History
from vigil.features.memory.restore import restore
from vigil.feed.simulator import Simulated, stream
from vigil.scoring.session import Session
from vigil.transports.proto import decisions_pb2 as pb
from vigil.transports.proto import decisions_pb2_grpc as rpc

DOMAIN = domains.load("payments")
DAYS, SIZES = 60, {"customers": 400, "terminals": 800}
WORLD = ["--customers", "400", "--terminals", "800"]
EVENTS = 10_000

Answers = tuple[np.ndarray, np.ndarray]  # features [n, F] and risks [n]
Way = Callable[[Served, list[Simulated]], Answers]


@dataclass
class Made:
    """What `vigil train` and `vigil optimize` left behind."""

    folder: Path
    paths: dict[str, str]

    def served(self, name: str) -> Served:
        """A service with a copy of the state at the end of the history."""
        state = self.folder / f"state-{name}"
        shutil.copytree(self.folder / "state", state, dirs_exist_ok=True)
        return Served(".", self.folder / f"{name}.log", self.paths | {"VIGIL_STATE_DIR": str(state)})

    def run(self, *command: str) -> str:
        env = os.environ | self.paths
        done = subprocess.run([sys.executable, "-m", *command], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def vigil(self, *arguments: str) -> str:
        return self.run("vigil.cli", *arguments)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("path")
    paths = {"VIGIL_STATE_DIR": str(folder / "state"), "BENTOML_HOME": str(folder / "bentoml"), "COLUMNS": "150"}
    made = Made(folder, paths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", paths["BENTOML_HOME"])
        made.vigil("train", "--days", str(DAYS), *WORLD)
        table = made.vigil("optimize")
        assert "wins" in table
        yield made


@pytest.fixture(scope="module")
def steps() -> list[Simulated]:
    """Payments after the history, and the labels that become known on the way."""
    events = itertools.count()
    return list(
        itertools.takewhile(lambda s: s.event is None or next(events) < EVENTS, stream(DOMAIN, 0, DAYS, **SIZES))
    )


@pytest.fixture(scope="module")
def offline(made: Made) -> Answers:
    """The computation over history: the features as in training, the risks by one call of the model."""
    store, _ = restore(made.folder / "state" / "features" / "payments", DOMAIN)
    past = simulate(0, DAYS, 20, **SIZES)
    cut = slice(0, EVENTS)
    history = History(
        DOMAIN,
        past.event_ids[cut],
        past.ts_ms[cut],
        {name: keys[cut] for name, keys in past.keys.items()},
        {name: values[cut] for name, values in past.numbers.items()},
        past.labels[cut],
    )
    features = store.replay(history)
    return features, Session.load(DOMAIN, "champion", 1024).run(features)


def answers(decisions: list[dict[str, Any]]) -> Answers:
    features = [[decision["features"][name] for name in DOMAIN.feature_names] for decision in decisions]
    return np.array(features, np.float32), np.array([decision["risk"] for decision in decisions], np.float32)


def http_calls(service: Served, calls: list[tuple[str, Any]]) -> Iterator[Any]:
    connection = http.client.HTTPConnection(LOCALHOST, service.port, timeout=30)
    for path, body in calls:
        connection.request("POST", path, json.dumps(body))
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        yield json.loads(text)
    connection.close()


def one_by_one(service: Served, steps: list[Simulated]) -> Answers:
    score, feedback = "/v1/payments/score?features=true", "/v1/payments/feedback"
    calls = [
        (score, s.event) if s.event else (feedback, {"event_id": s.event_id, "label": s.label}) for s in steps
    ]  # fmt: skip
    found = zip(steps, http_calls(service, calls), strict=True)
    return answers([answer for step, answer in found if step.event])


def in_arrays(service: Served, steps: list[Simulated]) -> Answers:
    calls: list[tuple[str, Any]] = []
    for part in chunks(steps, 230):
        labels = [{"event_id": s.event_id, "label": s.label} for s in part if not s.event]
        calls += [("/v1/payments/feedback", labels)] if labels else []
        calls += [("/v1/payments/score?features=true", [s.event for s in part if s.event])]
    found = http_calls(service, calls)
    return answers([d for (path, _), answer in zip(calls, found, strict=True) if "score" in path for d in answer])


def chunks(steps: list[Simulated], size: int) -> Iterator[list[Simulated]]:
    for start in range(0, len(steps), size):
        yield steps[start : start + size]


def over_grpc(service: Served, steps: list[Simulated]) -> Answers:
    decisions = []
    with grpc.insecure_channel(service.grpc_address) as channel:
        stub: Any = rpc.DecisionsStub(channel)
        for step in steps:
            if step.event is None:
                label = pb.Label(event_id=step.event_id, label=step.label)
                stub.Feedback(pb.FeedbackRequest(domain="payments", labels=[label]))
                continue
            event = pb.Event(
                event_id=step.event_id,
                ts_ms=step.event["ts"],
                entities={name: str(step.event[name]) for name in ("customer", "terminal")},
                numbers={"amount": step.event["amount"]},
            )
            answer = stub.Score(pb.ScoreRequest(domain="payments", events=[event], with_features=True))
            decisions.append({"features": answer.decisions[0].features, "risk": answer.decisions[0].risk})
    return answers(decisions)


@pytest.mark.parametrize("way", [one_by_one, in_arrays, over_grpc])
def test_ten_thousand_payments_get_the_features_and_risks_of_the_computation_over_history(
    made: Made, steps: list[Simulated], offline: Answers, way: Way
) -> None:
    with made.served(way.__name__) as service:
        features, risks = way(service, steps)
    assert len(risks) == EVENTS
    assert features.tobytes() == offline[0].tobytes()
    assert risks.tobytes() == offline[1].tobytes()
    assert (offline[0] != offline[0][0]).any(axis=0).sum() > 30, "the features hardly differ: nothing was compared"


def test_unmodified_triton_clients_get_kerass_own_risks(made: Made, offline: Answers) -> None:
    rows = np.ascontiguousarray(offline[0][:2000])
    network = keras.saving.load_model(made.folder / "state" / "training" / "payments" / "model.keras", compile=False)
    expected = np.asarray(network(rows)).ravel()
    with made.served("triton") as service:
        for module, address in ((tritonclient.http, service.address), (tritonclient.grpc, service.grpc_address)):
            with module.InferenceServerClient(address) as client:
                tensor = module.InferInput("features", list(rows.shape), "FP32")
                tensor.set_data_from_numpy(rows)
                found = client.infer("payments", [tensor]).as_numpy("risk").ravel()
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_the_live_feed_scores_over_http_and_grpc_and_sums_up(made: Made) -> None:
    first = ["--first-day", str(DAYS), *WORLD, "--rate", "400", "--count", "300"]
    with made.served("feed") as service:
        over_http = made.vigil("simulate", "--port", str(service.port), *first)
        over_rpc = made.vigil("simulate", "--to", "grpc", "--port", str(service.grpc_port), "--skip", "300", *first)
    for printed in (over_http, over_rpc):
        assert "300 (" in printed
        assert "p50" in printed
        assert "bad events caught" in printed
        assert "refused" not in printed
        assert "degraded" not in printed


def test_events_can_be_written_to_standard_output(made: Made) -> None:
    lines = made.vigil("simulate", "--to", "-", "--rate", "0", "--count", "50", *WORLD).splitlines()
    assert len(lines) == 50
    assert set(json.loads(lines[0])) == {"event_id", "ts", "customer", "terminal", "amount"}


def test_the_store_shows_the_model_and_its_checks(made: Made) -> None:
    version = model_store.resolve("payments").manifest.version
    assert version in made.vigil("models", "list")
    assert "spec_hash" in made.vigil("models", "show", "payments")
    assert "match the manifest" in made.vigil("models", "verify", "payments")
    assert f"payments:{version}" in made.run("bentoml", "models", "list")


def test_features_of_a_file_are_written_as_a_table(made: Made, tmp_path: Path) -> None:
    import polars as pl

    past = simulate(0, 0, 3, **SIZES)
    columns = {"TRANSACTION_ID": past.event_ids, "TX_DATETIME": past.ts_ms, "TX_AMOUNT": past.amount}
    columns |= {"CARD": past.customer, "TERMINAL_ID": past.terminal, "TX_FRAUD": past.labels}
    pl.DataFrame(columns).write_csv(tmp_path / "payments.csv")
    made.vigil(
        "features", "table", "--data", str(tmp_path / "payments.csv"), "--out", str(tmp_path / "table.parquet"),
        "--column", "customer=CARD",
    )  # fmt: skip
    table = pl.read_parquet(tmp_path / "table.parquet")
    assert table.columns == ["event_id", "ts", "label", *DOMAIN.feature_names]
    assert len(table) == len(past.event_ids)
