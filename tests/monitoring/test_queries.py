"""Nobody looks for what is not there: each query of rules and dashboards, against the metrics Vigil has."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.__main__ import FOLDER, boards, written
from tests.conftest import ROOT
from tests.monitoring.labels import Checker, Wrong, ours
from tests.monitoring.rules import RULES
from vigil.serving.process import ServingProcess
from vigil.settings import Settings
from vigil.transports.http.routes import Routes
from vigil.transports.proto import decisions_pb2

BOARDS = {name: board.as_json() for name, board in boards().items()}
PANELS = [
    pytest.param(panel, id=f"{name}-{panel['title']}") for name, board in BOARDS.items() for panel in board["panels"]
]


@pytest.fixture(scope="module")
def checker() -> Checker:
    return Checker()


@pytest.mark.parametrize("panel", PANELS)
def test_what_a_panel_shows_is_there(checker: Checker, panel: dict[str, Any]) -> None:
    for target in panel.get("targets", ()):
        labels = checker.check(target["expr"])
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels


@pytest.mark.parametrize("rule", [rule for rule in RULES if "alert" in rule], ids=lambda rule: rule["alert"])
def test_what_an_alert_watches_and_says_is_there(checker: Checker, rule: dict[str, Any]) -> None:
    labels = checker.check(rule["expr"])
    assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= labels


@pytest.mark.parametrize(
    "query",
    [
        "sum(vigil_request_total)",
        "vigil_ready{domain='payments'}",
        "sum by (transport) (vigil_ready)",
        "vigil_request_seconds_bucket{le='0.03'}",
        "vigil_ready / vigil_state_away",
    ],
)
def test_a_query_for_what_is_not_there_is_found_out(checker: Checker, query: str) -> None:
    with pytest.raises(Wrong):
        checker.check(query)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "runbooks").glob("*.md")), ids=lambda page: page.stem)
def test_what_a_runbook_asks_prometheus_is_there(checker: Checker, page: Path) -> None:
    for block in re.findall(r"^```promql\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for query in block.splitlines():
            checker.check(query)


def test_every_metric_is_documented_and_looked_at(checker: Checker) -> None:
    for panel in itertools.chain(*(board["panels"] for board in BOARDS.values())):
        for target in panel.get("targets", ()):
            checker.check(target["expr"])
    page = (ROOT / "docs" / "observability.md").read_text()
    for name in ours():
        assert re.search(f"`{name}(_total)?`", page), f"{name} is not in docs/observability.md"
        shown = {name, *(f"{name}_{end}" for end in ("total", "bucket", "sum", "count"))}
        assert shown & checker.used, f"{name} is in no rule and no dashboard"


def test_every_recorded_series_is_looked_at(checker: Checker) -> None:
    queries = [
        target["expr"] for board in BOARDS.values() for panel in board["panels"] for target in panel.get("targets", ())
    ]
    text = "\n".join([*queries, *(rule["expr"] for rule in RULES)])
    for rule in RULES:
        assert rule.get("record", rule["expr"]) in text


def test_service_levels_are_those_of_scores_risks_and_labels() -> None:
    (routes,) = set(re.findall(r'route=~"(.*?)"', (ROOT / "helm" / "rules" / "slo.yaml").read_text()))
    http = {route.template for route in Routes(ServingProcess(Settings())).table}
    counted = {route for route in http if re.fullmatch(routes, route)}
    assert counted == {route for route in http if route.endswith(("/score", "/feedback", "/infer"))}
    decisions = {method.name for method in decisions_pb2.DESCRIPTOR.services_by_name["Decisions"].methods}
    assert all(re.fullmatch(routes, name) for name in {*decisions, "ModelInfer", "ModelStreamInfer"})
    assert not any(re.fullmatch(routes, name) for name in ("ModelReady", "ServerReady", "Check", "/readyz"))


@pytest.mark.parametrize("name", BOARDS)
def test_the_dashboards_are_those_of_the_program(name: str) -> None:
    assert (FOLDER / name).read_text() == written(boards()[name]), "`python -m monitoring` writes them"


@pytest.mark.parametrize("name", BOARDS)
def test_grafanas_own_types_know_all_that_a_dashboard_says(name: str) -> None:
    plugins.register_default_plugins()
    read = Dashboard.from_json(json.loads((FOLDER / name).read_text()))
    kept = json.loads(json.dumps(read, default=lambda part: part.to_json()))
    assert _lost(BOARDS[name], kept) == []


def _lost(wanted: Any, kept: Any, at: str = "") -> list[str]:
    """OffsetKeeper in which `kept` does not say what `wanted` says; it may say more."""
    if isinstance(wanted, dict):
        return [place for key, part in wanted.items() for place in _lost(part, kept.get(key), f"{at}/{key}")]
    if isinstance(wanted, list) and len(wanted) == len(kept):
        return [place for i, pair in enumerate(zip(wanted, kept, strict=True)) for place in _lost(*pair, f"{at}/{i}")]
    return [] if wanted == kept else [at]


@pytest.mark.parametrize("name", BOARDS)
def test_panels_have_ids_of_their_own_and_do_not_overlap(name: str) -> None:
    panels = json.loads((FOLDER / name).read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells
