"""Panels as Grafana reads them, each with a few queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

GREEN, YELLOW, RED, BLUE, GREY = "green", "yellow", "red", "blue", "text"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

Panel = dict[str, Any]
Steps = Sequence[tuple[float, str]]
Query = tuple[str, str]  # PromQL, and the legend


def stat(title: str, about: str, query: str, unit: str, steps: Steps = (), legend: str = "", digits: int = 1) -> Panel:
    """One large number.

    Args:
        title: of the panel.
        about: what it means, behind the (i).
        query: PromQL.
        unit: of Grafana's, such as "s" or "percentunit".
        steps: from which value on it has which colour; below the first it is green. Without any it is blue.
        legend: names the number where there can be several.
        digits: behind the point.
    """
    colours = _thresholds(steps) if steps else {"mode": "absolute", "steps": [{"color": BLUE, "value": None}]}
    shown = {
        "colorMode": "background" if steps else "value",
        "graphMode": "area",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value_and_name" if legend else "value",
    }
    defaults = {"unit": unit, "decimals": digits, "thresholds": colours, "noValue": "-"}
    return _panel("stat", title, about, [(query, legend)], defaults, shown)


def series(
    title: str, about: str, queries: Sequence[Query], unit: str, limit: Steps = (), stacked: bool = False
) -> Panel:
    """Lines over time.

    Args:
        title, about, unit: as of :func:`stat`.
        queries: PromQL and the legend of each.
        limit: values with a dashed line in a colour.
        stacked: whether the lines add up.
    """
    custom: dict[str, Any] = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 30 if stacked else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if limit else "off"},
    }
    defaults = {"unit": unit, "min": 0, "custom": custom, "color": {"mode": "palette-classic"}}
    if limit:
        defaults["thresholds"] = _thresholds(limit)
    shown = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return _panel("timeseries", title, about, queries, defaults, shown)


def heatmap(title: str, about: str, query: str, unit: str) -> Panel:
    """How a histogram moves: `query` gives the rate of its buckets by `le`."""
    shown = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5},
        "yAxis": {"unit": unit},
        "tooltip": {"show": True, "yHistogram": True},
    }
    panel = _panel("heatmap", title, about, [(query, "{{le}}")], {}, shown)
    panel["targets"][0]["format"] = "heatmap"
    return panel


def bars(title: str, about: str, queries: Sequence[Query], unit: str) -> Panel:
    """Horizontal bars of what is now."""
    shown = {
        "displayMode": "gradient",
        "orientation": "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showUnfilled": True,
    }
    defaults = {"unit": unit, "min": 0, "decimals": 1, "color": {"mode": "palette-classic"}}
    return _panel("bargauge", title, about, queries, defaults, shown)


def table(title: str, about: str, query: str, hide: Sequence[str], empty: str) -> Panel:
    """The series that a query gives now, a row each.

    Args:
        title, about: as of :func:`stat`.
        query: PromQL.
        hide: columns that are left out.
        empty: said where there are none.
    """
    panel = _panel("table", title, about, [(query, "")], {"noValue": empty}, {"showHeader": True})
    panel["targets"][0] |= {"format": "table", "instant": True, "range": False}
    panel["transformations"] = [{"id": "organize", "options": {"excludeByName": dict.fromkeys(hide, True)}}]
    return panel


def row(title: str) -> Panel:
    """A heading over the panels that follow."""
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


def _panel(
    kind: str, title: str, about: str, queries: Sequence[Query], defaults: dict[str, Any], shown: dict[str, Any]
) -> Panel:
    targets = [
        {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expr, "legendFormat": legend or "__auto"}
        for i, (expr, legend) in enumerate(queries)
    ]
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": shown,
    }


def _thresholds(steps: Steps) -> dict[str, Any]:
    known = [{"color": GREEN, "value": None}, *({"color": colour, "value": at} for at, colour in steps)]
    return {"mode": "absolute", "steps": known}
