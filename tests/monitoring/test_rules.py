"""Each alert fires when it should and is quiet when it should be, by Prometheus' own promtool."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, tool
from tests.monitoring.cases import CASES, Case, Series
from tests.monitoring.rules import ALERTS, FILE_OF, FILES
from vigil.observe.calls import FAULTS

RUNBOOKS = ROOT / "docs" / "runbooks"


def trial(case: Case, series: Series, firing: bool) -> dict[str, Any]:
    """One test of promtool; the series are those of one job where they do not name another."""
    at = {"job": "vigil", "instance": "a"}
    samples = []
    for name, values in series.items():
        bare, _, labels = name.rstrip("}").partition("{")
        more = ",".join(f'{key}="{value}"' for key, value in at.items() if f"{key}=" not in labels)
        samples.append({"series": f"{bare}{{{','.join(part for part in (labels, more) if part)}}}", "values": values})
    query = f'group(ALERTS{{alertname="{case.alert}",severity="{case.severity}",alertstate="firing"}})'
    wanted = [{"labels": "{}", "value": 1}] if firing else []
    return {
        "name": f"{case.alert} {case.severity}: {'fires' if firing else 'is quiet'}",
        "interval": case.interval,
        "input_series": samples,
        "promql_expr_test": [{"expr": query, "eval_time": case.at, "exp_samples": wanted}],
    }


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, check=False)


def test_the_rules_are_well_formed() -> None:
    done = promtool("check", "rules", *map(str, FILES))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("path", "interval"),
    sorted({(FILE_OF[case.alert], case.interval) for case in CASES}),
    ids=lambda value: getattr(value, "stem", value),
)
def test_each_alert_fires_when_it_should_and_only_then(path: Path, interval: str, tmp_path: Path) -> None:
    trials = [
        trial(case, series, firing)
        for case in CASES
        if (FILE_OF[case.alert], case.interval) == (path, interval)
        for series, firing in ((case.fires, True), (case.quiet, False))
    ]
    file = tmp_path / "trials.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(path)], "evaluation_interval": interval, "tests": trials}))
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_of_every_severity_is_tried() -> None:
    tried = {(case.alert, case.severity) for case in CASES}
    assert tried == {(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert['alert']}-{alert['labels']['severity']}")
def test_every_alert_says_what_it_is_and_leads_to_a_page(alert: dict[str, Any]) -> None:
    told = alert["annotations"]
    assert set(told) == {"summary", "description", "runbook_url"}
    assert told["runbook_url"] == f"docs/runbooks/{alert['alert']}.md"
    page = (ROOT / told["runbook_url"]).read_text()
    assert page.startswith(f"# {alert['alert']}\n")
    assert all(f"\n## {part}\n" in page for part in ("What it means", "How to see", "What to do"))


def test_every_page_belongs_to_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("Vigil*.md")} == {alert["alert"] for alert in ALERTS}


def test_what_spends_the_error_budget_is_what_the_access_log_calls_a_fault() -> None:
    text = (ROOT / "helm" / "rules" / "slo.yaml").read_text()
    wanted = 'status=~"5..|UNKNOWN|DEADLINE_EXCEEDED|UNIMPLEMENTED|INTERNAL|UNAVAILABLE|DATA_LOSS"'
    assert set(wanted.split('"')[1].split("|")) == FAULTS | {"5.."}
    assert text.count("status=~") == text.count(wanted) == 7
