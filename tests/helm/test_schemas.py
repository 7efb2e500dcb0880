"""Laws of what the chart sends to a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.helm.chart import CHART, NEWEST, OLDEST, VALUES, objects, rendered
from tests.helm.schemas import SHIPPED, complaints


@pytest.mark.parametrize("kubernetes", [OLDEST, NEWEST])
@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem.removesuffix("-values"))
def test_every_object_is_what_the_oldest_and_the_newest_kubernetes_take(values: Path, kubernetes: str) -> None:
    found = objects(rendered(values, kubernetes))
    assert found
    assert [line for thing in found for line in complaints(thing, kubernetes)] == []


def test_the_oldest_kubernetes_is_the_one_the_chart_names_and_the_newest_the_one_there_are_schemas_for() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"] == f">={OLDEST}.0-0"
    versions = [path.name.split("-")[0].removeprefix("v") for path in SHIPPED.glob("v*-local-strict")]
    assert max(versions, key=lambda version: [int(number) for number in version.split(".")]) == f"{NEWEST}.0"


def test_a_typo_in_an_object_would_be_seen() -> None:
    found = objects(rendered(CHART / "ci" / "keda-values.yaml"))
    for kind, spec in (("Deployment", "replcas"), ("ScaledObject", "minReplicas"), ("ServiceMonitor", "endpoint")):
        thing = next(thing for thing in found if thing["kind"] == kind)
        thing["spec"][spec] = 1
        assert any(spec in line for line in complaints(thing, NEWEST)), kind
