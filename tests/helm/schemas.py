"""Schemas of what a cluster takes: Kubernetes' own by version, and those of the operators that the chart speaks to."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema_rs import Draft202012Validator, Registry

from tests.conftest import ROOT

SHIPPED = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
CRDS = ROOT / "tests" / "cluster" / "crds"


def complaints(thing: dict[str, Any], version: str) -> list[str]:
    """What the API server of this version would refuse an object for, a typo in a field included; a line each."""
    group, _, rest = thing["apiVersion"].rpartition("/")
    validator = _custom().get((group, rest, thing["kind"])) or _own(version, group, rest, thing["kind"])
    return [
        f"{thing['kind']} {thing['metadata']['name']}: {'.'.join(map(str, error.instance_path))}: {error.message[:300]}"
        for error in validator.iter_errors(thing)
    ]


@cache
def _own(version: str, group: str, rest: str, kind: str) -> Draft202012Validator:
    name = "-".join(filter(None, (kind.lower(), group.split(".")[0], rest)))
    schema = json.loads((SHIPPED / f"v{version}.0-local-strict" / f"{name}.json").read_text())
    return Draft202012Validator(schema, registry=_definitions(version))


@cache
def _definitions(version: str) -> Registry:
    contents = json.loads((SHIPPED / f"v{version}.0-local-strict" / "_definitions.json").read_text())
    return Registry([("json-schema:///_definitions.json", contents)])


@cache
def _custom() -> dict[tuple[str, str, str], Draft202012Validator]:
    found = {}
    for path in CRDS.glob("*.yaml"):
        spec = yaml.safe_load(path.read_text())["spec"]
        for version in spec["versions"]:
            key = spec["group"], version["name"], spec["names"]["kind"]
            found[key] = Draft202012Validator(_strict(version["schema"]["openAPIV3Schema"], top=True))
    return found


def _strict(schema: Any, top: bool = False) -> Any:
    """A definition's schema, which a server prunes by, as one that refuses what is not in it."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _strict(value) for key, value in schema.items()}
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("type", None)
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if isinstance(schema.get("properties"), dict):
        if top:
            schema["properties"]["metadata"] = {"type": "object"}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    return schema
