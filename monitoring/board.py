"""A dashboard: panels laid out from left to right, line by line."""

from __future__ import annotations

from typing import Any

from monitoring.panels import SOURCE, Panel

WIDTH = 24  # of a Grafana page


class Board:
    """Takes panels in the order in which they are read.

    Args:
        name: the last part of its title; also its id.
        about: what it shows.
        jobs: PromQL whose label `job` gives the jobs to choose from.
    """

    def __init__(self, name: str, about: str, jobs: str) -> None:
        self._name, self._about, self._jobs = name, about, jobs
        self._panels: list[Panel] = []
        self._x = self._y = self._height = 0

    def add(self, width: int, height: int, *panels: Panel) -> None:
        """Puts panels of one size side by side; what does not fit goes on in the next line."""
        for panel in panels:
            if self._x + width > WIDTH:
                self._break()
            place = {"x": self._x, "y": self._y, "w": width, "h": height}
            self._panels.append({"id": len(self._panels) + 1, "gridPos": place, **panel})
            self._x, self._height = self._x + width, max(self._height, height)

    def begin(self, heading: Panel) -> None:
        """Begins a line with a heading over it."""
        self._break()
        self.add(WIDTH, 1, heading)
        self._break()

    def _break(self) -> None:
        self._x, self._y, self._height = 0, self._y + self._height, 0

    def as_json(self) -> dict[str, Any]:
        """As Grafana reads it."""
        source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
        job = {
            "name": "job",
            "label": "Job",
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": f"label_values({self._jobs}, job)", "refId": "jobs"},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }
        others = {
            "title": "Vigil",
            "type": "dashboards",
            "tags": ["vigil"],
            "asDropdown": False,
            "includeVars": True,
            "keepTime": True,
        }
        return {
            "uid": f"vigil-{self._name}",
            "title": f"Vigil: {self._name}",
            "description": self._about,
            "tags": ["vigil"],
            "schemaVersion": 39,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "10s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "templating": {"list": [source, job]},
            "links": [others],
            "panels": self._panels,
        }
