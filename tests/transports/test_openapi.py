"""Laws of the description of our routes."""

from __future__ import annotations

import pytest
from jsonschema import Draft4Validator

from tests.features.every_feature import DOMAIN
from tests.serving.calls import payment
from vigil import domains
from vigil.transports.http import openapi

PAYMENTS = domains.load("payments")
PATHS = openapi.paths([PAYMENTS, DOMAIN])
EVENT = PATHS["/v1/payments/score"]["post"]["requestBody"]["content"]["application/json"]["schema"]


@pytest.mark.parametrize("path", sorted(path for path, item in PATHS.items() if "post" in item))
def test_every_example_is_what_its_schema_allows(path: str) -> None:
    content = PATHS[path]["post"]["requestBody"]["content"]["application/json"]
    Draft4Validator(content["schema"]).validate(content["example"])


@pytest.mark.parametrize(
    "changes", [{"amount": 0}, {"amount": -1.0}, {"amount": "1"}, {"colour": "red"}, {"customer": ""}, {"ts": -1}]
)
def test_what_the_service_refuses_the_schema_refuses(changes: dict[str, object]) -> None:
    assert Draft4Validator(EVENT).is_valid(payment("e1"))
    assert not Draft4Validator(EVENT).is_valid(payment("e1", **changes))


def test_every_served_domain_is_described() -> None:
    for name in ("payments", "every_feature"):
        assert {f"/v1/{name}/score", f"/v1/{name}/feedback", f"/v2/models/{name}/infer"} <= set(PATHS)
