"""The part of helm/values.schema.json that follows from Vigil's settings.

`python -m tests.helm.settings_schema` writes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vigil.settings import Settings

SCHEMA = Path(__file__).parent.parent.parent / "helm" / "values.schema.json"
# What the chart sets itself, from other values.
CHARTS_OWN = {
    "state_dir",
    "state_url",
    "access",
    "keys_file",
    "client_key",
    "admin_port",
    "grpc_host",
    "grpc_port",
    "grpc_connection_age_s",
    "kafka_properties",
    "stream_member",
    "stream_metrics_host",
    "stream_metrics_port",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
}


def settings_schema() -> dict[str, Any]:
    """JSON Schema of the value `settings`: what a user may set, held to what Vigil takes."""
    fields = Settings.model_json_schema()["properties"]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: {key: value for key, value in fields[name].items() if key not in ("title", "default")}
            for name in sorted(set(fields) - CHARTS_OWN)
        },
    }


if __name__ == "__main__":
    schema = json.loads(SCHEMA.read_text())
    schema["definitions"]["settings"] = settings_schema()
    SCHEMA.write_text(json.dumps(schema, indent=2) + "\n")
