"""The JSON bodies of the Open Inference Protocol, as schemas of OpenAPI 3.0: what is taken, and what comes back."""

from __future__ import annotations

from typing import Any

from vigil.domains.spec import Domain

Json = dict[str, Any]

MAX_FLOAT32 = 3.4028234663852886e38
MAX_TIMEOUT_US = (1 << 63) - 1
TEXT: Json = {"type": "string"}
FLAG: Json = {"type": "boolean"}
COUNT: Json = {"type": "integer", "minimum": 0}
ANYTHING: Json = {"type": "object"}
LOAD = {"type": "object", "properties": {"parameters": ANYTHING | {"nullable": True}}, "additionalProperties": False}
INDEX = {"type": "object", "properties": {"ready": FLAG | {"nullable": True}}, "additionalProperties": False}


def fields(properties: Json, optional: Json | None = None) -> Json:
    """An object of these fields and no others."""
    return {
        "type": "object",
        "properties": properties | (optional or {}),
        "required": list(properties),
        "additionalProperties": False,
    }


def listed(items: Json, **limits: int) -> Json:
    """An array of such items."""
    return {"type": "array", "items": items, **limits}


def infer_request(domain: Domain) -> Json:
    """Of the one declared input; that `data` fills `shape` no schema says."""
    number = {"type": "number", "minimum": -MAX_FLOAT32, "maximum": MAX_FLOAT32}
    shape = listed({"type": "integer", "minimum": 1}, minItems=2, maxItems=2)
    tensor = {
        "name": _one_of("features"),
        "datatype": _one_of("FP32"),
        "shape": shape | {"description": f"[n, {len(domain.features)}]"},
        "data": {"oneOf": [listed(number, minItems=1), listed(listed(number, minItems=1), minItems=1)]},
    }
    timeout = COUNT | {"maximum": MAX_TIMEOUT_US, "nullable": True, "description": "microseconds; 0: none"}
    parameters = ANYTHING | {"properties": {"timeout": timeout, "binary_data_output": FLAG}}
    wish = ANYTHING | {"properties": {"binary_data": FLAG}}
    output = fields({"name": _one_of("risk")}, {"parameters": _or_null(wish)})
    return fields(
        {"inputs": listed(fields(tensor, {"parameters": _or_null(ANYTHING)}), minItems=1, maxItems=1)},
        {
            "id": _or_null(TEXT),
            "model_name": _or_null(TEXT | {"description": "as in the path"}),
            "model_version": _or_null(TEXT | {"description": "that is loaded"}),
            "outputs": _or_null(listed(output)),
            "parameters": _or_null(parameters),
        },
    )


def infer_answer() -> Json:
    """With JSON tensors; `id` where one came."""
    tensor = {"name": TEXT, "datatype": TEXT, "shape": listed(COUNT), "data": listed({"type": "number"})}
    return fields({"model_name": TEXT, "model_version": TEXT, "outputs": listed(fields(tensor))}, {"id": TEXT})


SERVER = fields({"name": TEXT, "version": TEXT, "extensions": listed(TEXT)})
_TENSORS = listed(fields({"name": TEXT, "datatype": TEXT, "shape": listed({"type": "integer", "minimum": -1})}))
METADATA = fields({"name": TEXT, "versions": listed(TEXT), "platform": TEXT, "inputs": _TENSORS, "outputs": _TENSORS})
_DURATION = fields({"count": COUNT, "ns": COUNT})
_COMPUTE = dict.fromkeys(("compute_input", "compute_infer", "compute_output"), _DURATION)
_VERSION = {
    "name": TEXT,
    "version": TEXT,
    "last_inference": COUNT,
    "inference_count": COUNT,
    "execution_count": COUNT,
    "inference_stats": fields(dict.fromkeys(("success", "fail", "queue"), _DURATION) | _COMPUTE),
    "batch_stats": listed(fields({"batch_size": COUNT, **_COMPUTE})),
}
STATISTICS = fields({"model_stats": listed(fields(_VERSION))})
MODELS = listed(fields({"name": TEXT, "version": TEXT, "state": TEXT, "reason": TEXT}))


def _one_of(*values: str) -> Json:
    return TEXT | {"enum": list(values)}


def _or_null(schema: Json) -> Json:
    return schema | {"nullable": True}
