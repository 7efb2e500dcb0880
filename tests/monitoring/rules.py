"""The rule files, read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

FILES = sorted((ROOT / "helm" / "rules").glob("*.yaml"))
RULES_OF: dict[Path, list[dict[str, Any]]] = {
    path: [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]] for path in FILES
}
RULES = [rule for rules in RULES_OF.values() for rule in rules]
ALERTS = [rule for rule in RULES if "alert" in rule]
FILE_OF = {rule["alert"]: path for path, rules in RULES_OF.items() for rule in rules if "alert" in rule}
