"""Where BentoML keeps models: `{home}/models/{name}/{version}/`, with a file `latest` beside the versions."""

from __future__ import annotations

import os
from pathlib import Path


def root() -> Path:
    """The folder of all models: `models` in BENTOML_HOME, by default `~/bentoml`, as BentoML has it."""
    home = os.environ.get("BENTOML_HOME") or "~/bentoml"
    return Path(os.path.expandvars(home)).expanduser() / "models"
