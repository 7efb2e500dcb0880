"""Laws of the chart."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.chart import CHART, NEWEST, VALUES, objects, refusal, rendered, tool
from tests.helm.schemas import complaints
from tests.helm.settings_schema import SCHEMA, settings_schema
from vigil import settings

RULES = """groups:
  - name: sample
    rules:
      - alert: Down
        expr: up == 0
        annotations: {summary: "{{ $labels.instance }} is down"}
"""

each_values = pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem.removesuffix("-values"))

# A limit of CPU would only add to the tail, and a tag that does not move needs no look at the registry each time.
NOT_OURS = ("--ignore-container-cpu-limit", "--ignore-test", "container-image-pull-policy")


def pods(values: Path) -> list[dict[str, Any]]:
    """The specs of all pods, whatever makes them."""
    found = []
    for thing in objects(rendered(values)):
        if thing["kind"] == "Pod":
            found.append(thing["spec"])
        elif "template" in thing.get("spec", {}):
            found.append(thing["spec"]["template"]["spec"])
    return found


def test_helm_lints_the_chart_with_every_values_file() -> None:
    for path in VALUES:
        done = tool("helm", "lint", "--strict", CHART, "--values", path)
        assert done.returncode == 0, f"{path.name}: {done.stdout}{done.stderr}"


def test_the_unit_tests_of_the_templates_pass() -> None:
    done = tool("helm-unittest", "--strict", "--file", "tests/*_test.yaml", CHART)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_template_has_unit_tests() -> None:
    templates = {path.name for path in CHART.glob("templates/**/*.yaml")} | {"NOTES.txt"}
    tested = {
        Path(name).name
        for suite in CHART.glob("tests/*_test.yaml")
        for name in yaml.safe_load(suite.read_text())["templates"]
    }
    assert templates <= tested


@each_values
def test_a_policy_scan_finds_nothing_critical(values: Path) -> None:
    arguments = ("score", "--kubernetes-version", f"v{NEWEST}", *NOT_OURS, "--output-format", "ci", "-")
    done = tool("kube-score", *arguments, given=rendered(values))
    critical = re.findall(r"^\[CRITICAL\].*", done.stdout, re.MULTILINE)
    if values.stem.startswith("knative"):  # it does not know which pods Knative makes
        critical = [each for each in critical if "NetworkPolicys selector doesn't match any pods" not in each]
    else:
        assert done.returncode == 0, done.stderr
    assert critical == []


@each_values
def test_every_container_is_locked_down(values: Path) -> None:
    for pod in pods(values):
        assert pod["enableServiceLinks"] is False
        for container in pod["containers"]:
            held = container["securityContext"]
            assert held["runAsNonRoot"]
            assert held["readOnlyRootFilesystem"]
            assert not held["allowPrivilegeEscalation"]
            assert held["runAsUser"] == 10001
            assert held["capabilities"] == {"drop": ["ALL"]}
            assert held["seccompProfile"] == {"type": "RuntimeDefault"}
            assert container["resources"]["limits"]["memory"]


@each_values
def test_vigil_takes_the_environment_that_the_chart_gives_it(values: Path) -> None:
    for pod in pods(values):
        for container in pod["containers"]:
            settings.load({entry["name"]: entry.get("value", "memory:") for entry in container.get("env", ())})


def test_the_schema_knows_vigils_settings() -> None:
    assert json.loads(SCHEMA.read_text())["definitions"]["settings"] == settings_schema(), (
        "python -m tests.helm.settings_schema writes it"
    )


def test_the_schema_holds_just_what_values_has() -> None:
    schema = json.loads(SCHEMA.read_text())

    def compare(part: dict[str, Any], value: object, path: str) -> None:
        if "properties" not in part:
            return
        assert part["additionalProperties"] is False, path
        assert isinstance(value, dict), path
        assert set(part["properties"]) == set(value), path
        for key, inner in part["properties"].items():
            compare(inner, value[key], f"{path}.{key}")

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    compare(schema, {**values, "global": {}}, "")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["replicas=2"], "replicas"),
        (["serve.replica=2"], "replica"),
        (['settings={"max_quue": 1}'], "max_quue"),
        (['settings={"max_queue": 0}'], "max_queue"),
        (['settings={"state_dir": "/x"}'], "state_dir"),
        (['env={"VIGIL_WORKERS": "2"}'], "VIGIL_WORKERS"),
        (['state.url="mysql://x"'], "state.url"),
        (['image.digest="latest"'], "image.digest"),
        (['keda.stream={"lagTreshold": 1}'], "lagTreshold"),
    ],
)
def test_an_unknown_or_impossible_value_is_refused_by_its_name(given: list[str], said: str) -> None:
    assert said in refusal(*given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["autoscaling.enabled=true", "keda.enabled=true"], "autoscaling.enabled and keda.enabled"),
        (["serve.replicas=2"], "serve.replicas=2 with state.url=memory:"),
        (
            ["valkey.trial.enabled=true", 'settings={"records_max_bytes": 2147483648}'],
            "settings.records_max_bytes=2147483648: without a volume",
        ),
        (['settings={"workers": 2}'], "settings.workers=2 with state.url=memory:"),
        (["autoscaling.enabled=true"], "autoscaling.enabled with state.url=memory:"),
        (["canary.enabled=true"], "canary.enabled with state.url=memory:"),
        (["knative.enabled=true"], "knative.enabled with state.url=memory:"),
        (["stream.enabled=true", "stream.replicas=2", 'kafka.brokers="k:9092"'], "stream.replicas=2 with state.url"),
        (["stream.enabled=true"], "stream.enabled without a broker"),
        (["keda.enabled=true", 'state.existingSecret="x"'], "keda.serve.enabled without keda.prometheusUrl"),
        (['state.url="redis://x"', 'state.existingSecret="x"'], "both say where state lies"),
        (["valkey.trial.enabled=true", 'state.existingSecret="x"'], "both say where state lies"),
        (["kafka.trial.enabled=true", 'kafka.brokers="k:9092"'], "both say where Kafka is"),
        (["pod.terminationGracePeriodS=20"], "pod.terminationGracePeriodS=20: .* take up to 30 s"),
        (['settings={"drain_s": 60}'], "pod.terminationGracePeriodS=45: .* take up to 80 s"),
        (["canary.enabled=true", 'canary.by="route"', 'state.existingSecret="x"'], "canary.by=route without gateway"),
        (["gateway.http.enabled=true"], "without gateway.parentRefs"),
        (
            ["knative.enabled=true", "ingress.http.enabled=true", 'state.existingSecret="x"'],
            "knative.enabled with ingress",
        ),
    ],
)
def test_what_contradicts_itself_is_refused_with_the_reason(given: list[str], said: str) -> None:
    assert re.search(said, refusal(*given))


def test_rules_and_dashboards_go_in_as_they_are(tmp_path: Path) -> None:
    chart = tmp_path / "helm"
    shutil.copytree(CHART, chart)
    for name, text in (("rules/sample.yaml", RULES), ("dashboards/sample.json", '{"title": "{{ instance }}"}')):
        (chart / name).parent.mkdir(exist_ok=True)
        (chart / name).write_text(text)
    found = {
        thing["metadata"]["name"]: thing for thing in objects(rendered(CHART / "ci" / "keda-values.yaml", chart=chart))
    }
    rule = found["vigil-rules-sample"]
    assert rule["spec"] == yaml.safe_load(RULES)
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert complaints(rule, NEWEST) == []
    board = found["vigil-dashboards-sample"]
    assert board["data"] == {"sample.json": '{"title": "{{ instance }}"}'}
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_readme_says_what_the_comments_in_values_say(tmp_path: Path) -> None:
    shutil.copytree(CHART, tmp_path / "helm")
    done = tool("helm-docs", "--chart-search-root", tmp_path / "helm", "--sort-values-order", "file")
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "helm" / "README.md").read_text()
    assert (CHART / "README.md").read_text() == written, "make chart-docs writes it"


def test_no_value_is_without_a_comment() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        leaf = re.match(r" *[a-zA-Z]+: *\S", line)
        inside_leaf = re.match(r" +(requests|limits): ", line)
        if leaf and not inside_leaf:
            assert re.match(r" *# ", lines[number - 1]), line
