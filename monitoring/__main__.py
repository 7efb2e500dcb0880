"""Writes the dashboards: `python -m monitoring`."""

from __future__ import annotations

import json
from pathlib import Path

from monitoring.board import Board
from monitoring.model import model
from monitoring.service import service
from monitoring.stream import stream

FOLDER = Path(__file__).parent.parent / "helm" / "dashboards"


def boards() -> dict[str, Board]:
    """Each dashboard by the name of its file."""
    return {"service.json": service(), "stream.json": stream(), "model.json": model()}


def written(board: Board) -> str:
    """The text of a dashboard's file."""
    return json.dumps(board.as_json(), indent=1) + "\n"


if __name__ == "__main__":
    for name, board in boards().items():
        (FOLDER / name).write_text(written(board), encoding="utf-8")
