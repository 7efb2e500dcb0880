"""Which names there are to ask Prometheus for, and which labels an expression gives."""

from __future__ import annotations

from typing import Any

import promql_parser as promql
from prometheus_client import Counter, Gauge, Histogram

from tests.monitoring.rules import RULES
from vigil.observe import metrics
from vigil.observe.tallies import Family

TARGET = {"namespace", "job", "instance"}
FOREIGN = {
    "up": TARGET,
    "ALERTS": TARGET | {"alertname", "alertstate", "severity"},
}


class Wrong(Exception):
    """A query that asks for what is not there."""


def ours() -> dict[str, Any]:
    """Vigil's metrics, by the name they are declared with."""
    found = [metric._metric if isinstance(metric, Family) else metric for metric in vars(metrics).values()]
    return {metric._name: metric for metric in found if isinstance(metric, Counter | Gauge | Histogram)}


def told() -> dict[str, set[str]]:
    """The labels of each time series that `/metrics` has of Vigil's."""
    names: dict[str, set[str]] = {}
    for name, metric in ours().items():
        labels = TARGET | set(metric._labelnames)
        if isinstance(metric, Counter):
            names[name + "_total"] = labels
        elif isinstance(metric, Gauge):
            names[name] = labels
        else:
            names |= {name + "_bucket": labels | {"le"}, name + "_sum": labels, name + "_count": labels}
    return names


class Checker:
    """Finds the labels of expressions; raises :class:`Wrong` for a name, a label or a bucket that is not there."""

    def __init__(self) -> None:
        self.names = told() | FOREIGN
        self.used: set[str] = set()
        for rule in RULES:
            if "record" in rule:
                if rule["record"] in self.names:
                    raise Wrong(f"{rule['record']} is there already")
                self.names[rule["record"]] = self.check(rule["expr"])

    def check(self, text: str) -> set[str]:
        """The labels that the series of a query have."""
        text = text.replace("$__rate_interval", "5m").replace("$job", ".*")
        try:
            return self._labels(promql.parse(text))
        except Wrong as wrong:
            raise Wrong(f"{wrong} in {text}") from None

    def _labels(self, expr: Any) -> set[str]:
        match type(expr):
            case promql.VectorSelector:
                return self._selected(expr)
            case promql.MatrixSelector:
                return self._selected(expr.vector_selector)
            case promql.ParenExpr | promql.SubqueryExpr | promql.UnaryExpr:
                return self._labels(expr.expr)
            case promql.AggregateExpr:
                return self._aggregated(expr)
            case promql.Call:
                found = set().union(*(self._labels(part) for part in expr.args))
                return found - {"le"} if expr.func.name == "histogram_quantile" else found
            case promql.BinaryExpr:
                return self._joined(expr)
            case promql.NumberLiteral | promql.StringLiteral:
                return set()
        raise Wrong(f"{type(expr)} is not known here")

    def _selected(self, selector: Any) -> set[str]:
        if selector.name not in self.names:
            raise Wrong(f"no {selector.name}")
        self.used.add(selector.name)
        labels = self.names[selector.name]
        for matcher in selector.matchers.matchers:
            if matcher.name not in labels:
                raise Wrong(f"no label {matcher.name} of {selector.name}")
            if matcher.name == "le":
                bounds = ours()[selector.name.removesuffix("_bucket")]._kwargs["buckets"]
                if float(matcher.value) not in bounds:
                    raise Wrong(f"no bucket up to {matcher.value} of {selector.name}")
        return labels

    def _aggregated(self, expr: Any) -> set[str]:
        inner = self._labels(expr.expr)
        kept = set(expr.modifier.labels) if expr.modifier else set()
        if not kept <= inner:
            raise Wrong(f"no label {', '.join(sorted(kept - inner))}")
        return kept

    def _joined(self, expr: Any) -> set[str]:
        left, right = self._labels(expr.lhs), self._labels(expr.rhs)
        if _scalar(expr.lhs) or _scalar(expr.rhs):
            return left | right
        modifier, operator = expr.modifier, str(expr.op)
        matching = modifier.matching if modifier else None
        if matching is not None:
            # `on` or `ignoring`: what is named must be there on the left; on both sides for `on`.
            named = set(matching.labels)
            if not named <= left:
                raise Wrong(f"no label {', '.join(sorted(named - left))} on the left of {operator}")
        elif operator != "or" and left != right:
            raise Wrong(f"{sorted(left)} {operator} {sorted(right)} never match")
        return left | right if operator == "or" else left


def _scalar(expr: Any) -> bool:
    match type(expr):
        case promql.NumberLiteral:
            return True
        case promql.ParenExpr:
            return _scalar(expr.expr)
        case promql.BinaryExpr:
            return _scalar(expr.lhs) and _scalar(expr.rhs)
        case promql.Call:
            return bool(expr.func.name == "time")
    return False
