"""What a service tells of its own times: the histograms of its `/metrics`, before and after a load."""

from __future__ import annotations

import math
import urllib.error
import urllib.request
from collections import defaultdict

from prometheus_client.parser import text_string_to_metric_families

from vigil import settings

Route = tuple[str, str]  # transport and route
Histograms = dict[Route, dict[float, float]]  # requests within so many seconds
NAME = "vigil_request_seconds"


def read(url: str) -> Histograms:
    """The histograms that the service at `url` has; none where it cannot be asked."""
    try:
        key = settings.load().client_key
        asked = urllib.request.Request(f"{url}/metrics", headers={"X-API-Key": key} if key else {})
        with urllib.request.urlopen(asked, timeout=5) as answer:
            return parsed(answer.read().decode())
    except (OSError, ValueError):
        return {}


def parsed(text: str) -> Histograms:
    """Those in a page of metrics, in Prometheus' format."""
    found: Histograms = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        if family.name == NAME:
            for sample in family.samples:
                if sample.name == f"{NAME}_bucket":
                    labels = sample.labels
                    found[labels["transport"], labels["route"]][float(labels["le"])] = sample.value
    return dict(found)


def quantile_ms(before: Histograms, after: Histograms, route: Route, share: float) -> float:
    """Milliseconds within which that share was answered, evenly spread in each bucket; nan where none was."""
    then = before.get(route, {})
    counts = sorted((bound, count - then.get(bound, 0.0)) for bound, count in after.get(route, {}).items())
    if not counts or not counts[-1][1]:
        return math.nan
    wanted, low, below = share * counts[-1][1], 0.0, 0.0
    for bound, count in counts:
        if count >= wanted:
            inside = 0.0 if math.isinf(bound) else (bound - low) * (wanted - below) / max(count - below, 1e-9)
            return (low + inside) * 1000
        low, below = bound, count
    return math.nan
