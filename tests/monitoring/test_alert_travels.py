"""From a worker without a model to somebody's webhook, through Prometheus and Alertmanager, and its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from monitoring.service import service
from testbed import tiny_model
from testbed.served import Served
from tests.monitoring.prometheus import Alertmanager, Prometheus
from tests.monitoring.webhook import Alert, Webhook
from tests.serving.calls import call, payment
from vigil import domains

WAIT_S = 120.0


@dataclass
class Watched:
    """A service without a model, and who watches it."""

    service: Served
    prometheus: Prometheus
    webhook: Webhook
    home: Path
    scored: int = 0

    def score(self) -> None:
        """One more payment."""
        self.scored += 1
        assert call(self.service.port, "POST", "/v1/payments/score", payment(f"p{self.scored}")).status == 200

    def told(self, name: str, status: str) -> Alert:
        """The alert of that name, when it comes; meanwhile payments are scored."""
        until_s = time.monotonic() + WAIT_S
        while time.monotonic() < until_s:
            self.score()
            alert = self.webhook.next(0.05)
            if alert and (alert["labels"]["alertname"], alert["status"]) == (name, status):
                return alert
        raise AssertionError(f"{name} was not {status} in {WAIT_S} s:\n{self.prometheus.log.read_text()}")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    home = folder / "bento"
    environment = {
        "BENTOML_HOME": str(home),
        "VIGIL_STATE_DIR": str(folder / "state"),
        "VIGIL_DOMAINS": "payments",
        "VIGIL_GRPC_PORT": "0",
    }
    with (
        Webhook() as webhook,
        Alertmanager(folder, webhook.url) as alertmanager,
        Served(".", folder / "log", environment, wanted=(503,)) as served,
        Prometheus(folder, served.address, alertmanager.address) as prometheus,
    ):
        yield Watched(served, prometheus, webhook, home)


def test_an_alert_reaches_somebody_and_so_does_its_end(watched: Watched, tmp_path: Path) -> None:
    came = watched.told("VigilRulesTier", "firing")
    assert came["labels"] == {"alertname": "VigilRulesTier", "job": "vigil", "domain": "payments", "severity": "page"}
    assert came["annotations"]["summary"] == "Rules decide on payments, not the model."
    assert "100% of the decisions of vigil" in came["annotations"]["description"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(watched.home))
        tiny_model.store(tmp_path, domains.load("payments"), risk_edges=(0.5,), risk_shares=(0.5, 0.5))
    assert call(watched.service.port, "POST", "/v2/repository/models/payments/load").status == 200
    ended = watched.told("VigilDown", "resolved")  # nobody was ready without a model
    assert ended["labels"]["severity"] == "page"


def test_rules_and_dashboards_are_answered_by_prometheus(watched: Watched) -> None:
    panels = [panel for panel in service().as_json()["panels"] if panel["type"] not in ("row", "table")]
    queries = {target["expr"] for panel in panels for target in panel["targets"]}
    until_s = time.monotonic() + WAIT_S
    while queries and time.monotonic() < until_s:
        watched.score()
        queries = {query for query in queries if not watched.prometheus.query(query)}
    assert not queries, "nothing came for these"
    rules = [rule for group in watched.prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}, [rule.get("lastError") for rule in rules]
