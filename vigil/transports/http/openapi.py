"""Vigil's own routes for the OpenAPI page: plain data, OpenAPI 3.0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vigil.domains.schema import MAX_KEY
from vigil.domains.spec import Domain, Number
from vigil.domains.times import LEAST_MS, MOST_MS
from vigil.transports.http import protocol_schema as protocol
from vigil.transports.http.message import TIMEOUT_DIGITS
from vigil.transports.http.protocol_schema import Json

EVENTS = {"name": "Events", "description": "Events in, decisions out; the truth back."}
INFERENCE = {"name": "Open Inference Protocol v2", "description": "Feature rows in, risks out."}

_KEY = {
    "oneOf": [
        {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
        {"type": "integer", "description": f"of at most {MAX_KEY} characters"},
    ]
}
_TS = {
    "oneOf": [{"type": "string", "format": "date-time"}, {"type": "integer", "minimum": LEAST_MS, "maximum": MOST_MS}],
    "description": "from 2000 on, and not further ahead of the clock than VIGIL_MAX_FUTURE_S",
}
_REFUSALS = {
    400: "A field that is missing, unknown or cannot be: named, with what came and what was wanted.",
    401: "No key, or one that is none, where keys are asked for.",
    403: "The key lacks the scope that this call needs; or a foreign Host or Origin where none is asked for.",
    404: "No such domain, model, version or record; where they can be told, those there are.",
    409: "The event's id has come before, with another content. The others of the call have counted.",
    413: "A body over the limit.",
    415: "A Content-Encoding other than gzip, deflate and identity.",
    429: "Too much is waiting, or the caller has called too often: come back after the seconds of Retry-After.",
    503: "No model is loaded; why.",
    504: "The deadline passed before this could run; nothing was computed, nothing has counted.",
}
_ERROR = protocol.fields({"error": protocol.TEXT})
_VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_DEADLINE = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "required": False,
    "schema": {"type": "integer", "minimum": 0, "maximum": 10**TIMEOUT_DIGITS - 1},
    "description": "milliseconds after which the caller gives up",
}


def extend(spec: Any, domains: Sequence[Domain]) -> Any:
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
        found |= _events(domain) | _model(domain)
    live = protocol.fields({"live": protocol.FLAG})
    ready = protocol.fields({"ready": protocol.FLAG})
    return found | {
        "/v1/decisions/{event_id}": _record(domains),
        "/v2": _get("Metadata of the server", protocol.SERVER),
        "/v2/health/live": _get("Whether the server is up", live),
        "/v2/health/ready": _get("Whether every model is loaded", ready, 503),
        "/v2/models/stats": _get("What every model has done", protocol.STATISTICS),
        "/v2/repository/index": _asked(
            "Every stored version with its state", protocol.INDEX, protocol.MODELS, {"ready": True}
        ),
    }


def _events(domain: Domain) -> dict[str, Json]:
    label = protocol.fields({"event_id": _KEY, "label": {"type": "integer", "enum": [0, 1]}})
    status = protocol.fields({"event_id": _KEY, "status": protocol.TEXT})
    return {
        f"/v1/{domain.name}/score": _post(
            EVENTS,
            f"Score {domain.name}: an event, or an array of them, to decisions in the same order",
            _one_or_many(_event(domain)),
            _one_or_many(_decision(domain)),
            domain.example,
            (400, 404, 409, 413, 429, 504),
            [_flag("features", "Whether the decisions shall hold the values of the features."), _DEADLINE],
        ),
        f"/v1/{domain.name}/feedback": _post(
            EVENTS,
            "The true label of an earlier event, or an array of them",
            _one_or_many(label),
            _one_or_many(status),
            {"event_id": domain.example["event_id"], "label": 1},
            (400, 404, 413),
        ),
    }


def _record(domains: Sequence[Domain]) -> Json:
    """An event id is known by itself; the domain is asked for where two have the same."""
    names = {"type": "string", "enum": [domain.name for domain in domains]}
    event_id = {"name": "event_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    domain = {"name": "domain", "in": "query", "required": False, "schema": names, "description": "whose event it is"}
    texts = ("domain", "model", "digest", "policy", "spec")
    one = _decision(domains[0])["properties"] | dict.fromkeys(texts, protocol.TEXT)
    one |= {"action": protocol.TEXT, "event": {"type": "object"}, "written_ms": {"type": "integer"}}
    required = [name for name in one if name != "features"]
    answer = {"type": "object", "properties": one, "required": required}
    summary = "The record of a decision, the last one of an event: the event, its features, who decided"
    return {"get": _operation(EVENTS, summary, answer, (400, 404), [event_id, domain])}


def _model(domain: Domain) -> dict[str, Json]:
    found: dict[str, Json] = {}
    ready = protocol.fields({"name": protocol.TEXT, "ready": protocol.FLAG})
    for end, parameters in (("", []), ("/versions/{version}", [_VERSION])):
        at = f"/v2/models/{domain.name}{end}"
        infer = _post(
            INFERENCE,
            f"Risks of rows of the {len(domain.features)} features; tensors may also come as bytes behind the JSON",
            protocol.infer_request(domain),
            protocol.infer_answer(),
            _infer_example(domain),
            (400, 404, 413, 429, 503, 504),
            parameters,
        )
        infer["post"]["responses"]["200"]["content"]["application/octet-stream"] = {"schema": protocol.TEXT}
        found |= {
            at: _get("Metadata of the model", protocol.METADATA, 404, 503, parameters=parameters),
            f"{at}/ready": _get("Whether the model is loaded", ready, 404, 503, parameters=parameters),
            f"{at}/config": _get("Its configuration", protocol.ANYTHING, 404, 503, parameters=parameters),
            f"{at}/stats": _get("What it has done", protocol.STATISTICS, 404, parameters=parameters),
            f"{at}/infer": infer,
        }
    state = {"name": protocol.TEXT, "state": protocol.TEXT}
    at = f"/v2/repository/models/{domain.name}"
    return found | {
        f"{at}/load": _asked(
            "Takes the model that the store's alias means now",
            protocol.LOAD,
            protocol.fields(state | {"version": protocol.TEXT}),
            {},
            404,
            503,
        ),
        f"{at}/unload": _asked("Lets the rules tier answer", protocol.LOAD, protocol.fields(state), {}, 404),
    }


def _event(domain: Domain) -> Json:
    entities = {entity.name: _KEY for entity in domain.entities}
    numbers = {number.name: _number(number) for number in domain.numbers}
    return protocol.fields({"event_id": _KEY, "ts": _TS, **entities, **numbers})


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
    return protocol.fields(
        {
            "event_id": _KEY,
            "risk": risk,
            "action": {"type": "string", "enum": list(domain.policy.actions)},
            "reasons": {"type": "array", "items": text, "description": "; ".join(reasons)},
            "model": text,
            "tier": {"type": "string", "enum": ["full", "rules"]},
            "degraded": flag,
        },
        {"features": values},
    )


def _infer_example(domain: Domain) -> Json:
    row = [0.0] * len(domain.features)
    return {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, len(row)], "data": row}]}


def _one_or_many(schema: Json) -> Json:
    return {"oneOf": [schema, {"type": "array", "items": schema, "minItems": 1}]}


def _flag(name: str, meaning: str) -> Json:
    return {"name": name, "in": "query", "required": False, "schema": {"type": "boolean"}, "description": meaning}


def _post(
    tag: Json,
    summary: str,
    body: Json,
    answer: Json,
    example: Json,
    refusals: Sequence[int],
    parameters: Sequence[Json] = (),
) -> Json:
    content = {"application/json": {"schema": body, "example": example}}
    operation = _operation(tag, summary, answer, refusals, parameters)
    return {"post": operation | {"requestBody": {"required": True, "content": content}}}


def _asked(summary: str, body: Json, answer: Json, example: Json, *refusals: int) -> Json:
    """A POST whose body may be left out."""
    item = _post(INFERENCE, summary, body, answer, example, (400, 413, *refusals))
    item["post"]["requestBody"]["required"] = False
    return item


def _get(summary: str, answer: Json, *refusals: int, parameters: Sequence[Json] = ()) -> Json:
    return {"get": _operation(INFERENCE, summary, answer, refusals, parameters)}


def _operation(tag: Json, summary: str, answer: Json, refusals: Sequence[int], parameters: Sequence[Json]) -> Json:
    answers = {"200": {"description": "OK", "content": {"application/json": {"schema": answer}}}}
    for status in sorted({*refusals, 401, 403, *([415] if 413 in refusals else ())}):
        content = {"application/json": {"schema": _ERROR}}
        answers[str(status)] = {"description": _REFUSALS[status], "content": content}
    if 429 in refusals:
        wait = {"required": True, "schema": {"type": "integer"}, "description": "seconds"}
        answers["429"]["headers"] = {"Retry-After": wait}
    operation: Json = {"tags": [tag["name"]], "summary": summary, "responses": answers}
    if parameters:
        operation["parameters"] = list(parameters)
    return operation
