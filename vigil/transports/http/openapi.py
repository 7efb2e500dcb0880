"""Vigil's own routes for the OpenAPI page: plain data, OpenAPI 3.0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vigil.domains.schema import MAX_KEY, MAX_TS_MS
from vigil.domains.spec import Domain, Number

Json = dict[str, Any]

EVENTS = {"name": "Events", "description": "Events in, decisions out; the truth back."}
INFERENCE = {"name": "Open Inference Protocol v2", "description": "Feature rows in, risks out."}

_KEY = {"oneOf": [{"type": "string", "minLength": 1, "maxLength": MAX_KEY}, {"type": "integer"}]}
_TS = {"oneOf": [{"type": "string", "format": "date-time"}, {"type": "integer", "minimum": 0, "maximum": MAX_TS_MS}]}
_REFUSALS = {
    "400": "A field that is missing, unknown or cannot be: named, with what came and what was wanted.",
    "404": "No such domain or model; those there are.",
    "413": "A body over the limit.",
    "429": "Too much is waiting: come back after the seconds of Retry-After.",
}


def extended(spec: Any, domains: Sequence[Domain]) -> Any:
    """BentoML's specification of a service with the routes of `domains` in front."""
    import attrs
    from bentoml._internal.service.openapi.specification import PathItem, Tag
    from bentoml._internal.utils.cattr import bentoml_cattr

    ours = {path: bentoml_cattr.structure(item, PathItem) for path, item in paths(domains).items()}
    tags = [Tag(**EVENTS), Tag(**INFERENCE), *spec.tags]
    return attrs.evolve(spec, tags=tags, paths=ours | spec.paths)


def paths(domains: Sequence[Domain]) -> dict[str, Json]:
    """The path items of all served domains, by path."""
    found: dict[str, Json] = {}
    for domain in domains:
        event = _event(domain)
        found[f"/v1/{domain.name}/score"] = _post(
            EVENTS,
            f"Score {domain.name}: an event, or an array of them, to decisions in the same order",
            _one_or_many(event),
            _one_or_many(_decision(domain)),
            domain.example,
            [_flag("features", "Whether the decisions shall hold the values of the features.")],
        )
        found[f"/v1/{domain.name}/feedback"] = _post(
            EVENTS,
            "The true label of an earlier event, or an array of them",
            _one_or_many(_object({"event_id": _KEY, "label": {"type": "integer", "enum": [0, 1]}})),
            _one_or_many(_object({"event_id": _KEY, "status": {"type": "string"}})),
            {"event_id": domain.example["event_id"], "label": 1},
        )
        found[f"/v2/models/{domain.name}/infer"] = _post(
            INFERENCE,
            f"Risks of rows of the {len(domain.features)} features",
            _tensors("inputs"),
            _tensors("outputs"),
            _infer_example(domain),
        )
        found[f"/v2/models/{domain.name}"] = _get(INFERENCE, "Metadata of the model")
        found[f"/v2/models/{domain.name}/ready"] = _get(INFERENCE, "Whether the model is loaded")
    found["/v2"] = _get(INFERENCE, "Metadata of the server")
    found["/v2/health/live"] = _get(INFERENCE, "Whether the server is up")
    found["/v2/health/ready"] = _get(INFERENCE, "Whether every model is loaded")
    return found


def _event(domain: Domain) -> Json:
    entities = {entity.name: _KEY for entity in domain.entities}
    numbers = {number.name: _number(number) for number in domain.numbers}
    return _object({"event_id": _KEY, "ts": _TS, **entities, **numbers})


def _number(number: Number) -> Json:
    schema: Json = {"type": "number", "maximum": number.at_most, "description": number.unit}
    if number.above is not None:
        schema |= {"minimum": number.above, "exclusiveMinimum": True}
    if number.at_least is not None:
        schema |= {"minimum": number.at_least}
    return schema


def _decision(domain: Domain) -> Json:
    risk = {"type": "number", "minimum": 0, "maximum": 1, "description": "calibrated probability"}
    text, flag = {"type": "string"}, {"type": "boolean"}
    values = {"type": "object", "additionalProperties": {"type": "number"}}
    reasons = [f"{reason.code}: {reason.meaning}" for reason in domain.policy.reasons]
    schema = _object(
        {
            "event_id": _KEY,
            "risk": risk,
            "action": {"type": "string", "enum": list(domain.policy.actions)},
            "reasons": {"type": "array", "items": text, "description": "; ".join(reasons)},
            "model": text,
            "tier": {"type": "string", "enum": ["full", "rules"]},
            "degraded": flag,
        }
    )
    schema["properties"]["features"] = values
    return schema


def _tensors(name: str) -> Json:
    numbers = {"type": "array", "items": {}}
    tensor = {
        "name": {"type": "string"},
        "datatype": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "data": numbers,
    }
    return {
        "type": "object",
        "properties": {"id": {"type": "string"}, name: {"type": "array", "items": _object(tensor)}},
        "required": [name],
    }


def _infer_example(domain: Domain) -> Json:
    row = [0.0] * len(domain.features)
    return {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, len(row)], "data": row}]}


def _object(properties: Json) -> Json:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _one_or_many(schema: Json) -> Json:
    return {"oneOf": [schema, {"type": "array", "items": schema, "minItems": 1}]}


def _flag(name: str, meaning: str) -> Json:
    return {"name": name, "in": "query", "required": False, "schema": {"type": "boolean"}, "description": meaning}


def _post(tag: Json, summary: str, body: Json, answer: Json, example: Json, parameters: Sequence[Json] = ()) -> Json:
    operation = _operation(tag, summary, answer)
    operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body, "example": example}}}
    if parameters:
        operation["parameters"] = list(parameters)
    operation["responses"] |= {status: {"description": meaning} for status, meaning in _REFUSALS.items()}
    return {"post": operation}


def _get(tag: Json, summary: str) -> Json:
    return {"get": _operation(tag, summary, {"type": "object"})}


def _operation(tag: Json, summary: str, answer: Json) -> Json:
    content = {"application/json": {"schema": answer}}
    return {
        "tags": [tag["name"]],
        "summary": summary,
        "responses": {"200": {"description": "OK", "content": content}},
    }
