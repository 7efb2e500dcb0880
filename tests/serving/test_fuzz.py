"""Schemathesis drives every route of ours from its description: what is described is what is served."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from itertools import cycle, islice
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, seed, settings
from schemathesis.specs.openapi import checks

from testbed.served import Served
from tests.serving.calls import DAY, call
from vigil import domains
from vigil.transports.http import openapi

PAYMENTS = domains.load("payments")
PATHS = openapi.paths([PAYMENTS])
WIDTH = len(PAYMENTS.features)
DOCUMENT = {"openapi": "3.0.2", "info": {"title": "vigil", "version": "1"}, "paths": PATHS}
DEADLINE = "X-Request-Timeout-Ms"
described = schemathesis.openapi.from_dict(deepcopy(DOCUMENT))


CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.negative_data_rejection,
    checks.positive_data_acceptance,
    checks.missing_required_header,
    checks.unsupported_method,
]


def meant(case: Any) -> None:
    """What a description cannot say: deadlines that can be kept, times in the past, as many data as the shape holds."""
    if case.headers and str(case.headers.get(DEADLINE, "")).isdigit():
        case.headers[DEADLINE] = "60000"
    if not case.meta.generation.mode.is_positive or not isinstance(case.body, dict | list):
        return
    for body in case.body if isinstance(case.body, list) else [case.body]:
        if "ts" in body:
            body["ts"] = DAY
        if "inputs" in body:
            fill(body)


def fill(body: dict[str, Any]) -> None:
    """Cuts the data of an infer request to its shape, and takes away what names another version or cannot wait."""
    for name in ("model_name", "model_version"):
        body.pop(name, None)
    (body.get("parameters") or {}).pop("timeout", None)
    tensor = body["inputs"][0]
    rows, data = 1 + tensor["shape"][0] % 3, tensor["data"]
    nested = isinstance(data[0], list)
    flat = list(islice(cycle(data[0] if nested else data), rows * WIDTH))
    tensor["shape"] = [rows, WIDTH]
    tensor["data"] = [flat[i : i + WIDTH] for i in range(0, len(flat), WIDTH)] if nested else flat


@described.exclude(path_regex="unload$").parametrize()
@seed(4)
@settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_what_is_described_is_what_is_served(case: Any, served: Served) -> None:
    meant(case)
    case.call_and_validate(base_url=served.url, checks=CHECKS)


@pytest.fixture
def loaded_again(served: Served) -> Iterator[Served]:
    """The service, whose model a test may let go: others want it."""
    yield served
    assert call(served.port, "POST", "/v2/repository/models/payments/load").status == 200


@described.include(path_regex="unload$").parametrize()
@seed(4)
@settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_letting_a_model_go_is_as_described(case: Any, loaded_again: Served) -> None:
    case.call_and_validate(base_url=loaded_again.url, checks=CHECKS)


def test_the_service_describes_itself_so(served: Served) -> None:
    shown = call(served.port, "GET", "/docs.json").json["paths"]
    assert {path: shown[path] for path in PATHS} == PATHS
