"""Laws of the chart on a cluster. They are one story: each test goes on from where the one before it stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.cluster.commands import RELEASE, Cluster, Refused, until
from tests.cluster.conftest import VALUES
from tests.helm.chart import CHART, objects, rendered

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
RATE = 40.0
EVENTS = 1000


def test_pods_pass_their_probes_locked_down(installed: Cluster) -> None:
    for pod in installed.pods():
        assert pod["status"]["containerStatuses"][0]["ready"]
        name = pod["metadata"]["name"]
        assert installed.python(name, "import os; print(os.getuid())").split() == ["10001"]
        with pytest.raises(Refused, match="Read-only file system"):
            installed.python(name, "open('/app/x', 'w')")
        status = installed.python(name, "print(open('/proc/1/status').read())")
        held = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
        assert held["CapEff"] == held["CapBnd"] == "0" * 16
        assert held["Seccomp"] == "2"
        assert held["NoNewPrivs"] == "1"


def test_a_payment_is_scored_over_http_and_grpc_through_the_service(installed: Cluster) -> None:
    said = installed.helm("test", "--timeout", "120s")
    assert said.count("Succeeded") == 2


def test_an_upgrade_under_load_fails_no_call(installed: Cluster) -> None:
    before = {pod["metadata"]["name"] for pod in installed.pods()}
    with installed.load(RATE) as outcome:
        installed.apply("upgrade", VALUES, "--set", "settings.max_batch=512")
        until("the old pods to go", lambda: not before & {item["metadata"]["name"] for item in _all_pods(installed)})
    assert outcome["failed"] == 0, outcome
    assert outcome["calls"] > RATE


def test_an_upgrade_that_keeps_values_takes_those_of_a_chart_that_knew_less(installed: Cluster, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(CHART, older)
    known = yaml.safe_load((older / "values.yaml").read_text())
    for section in ("tls", "knative", "extraVolumes", "revisionHistoryLimit", "canary"):
        del known[section]
    (older / "values.yaml").write_text(yaml.safe_dump(known))
    installed.apply("upgrade", VALUES, chart=older)
    before = {pod["metadata"]["name"] for pod in installed.pods()}
    for way in ("--reuse-values", "--reset-then-reuse-values"):
        installed.helm("upgrade", str(CHART), way, "--wait", "--timeout", "240s")
        assert {pod["metadata"]["name"] for pod in installed.pods()} == before
        assert installed.get("deployment", RELEASE)["spec"]["revisionHistoryLimit"] == 5


def test_a_broken_revision_rolls_itself_back_and_fails_no_call(installed: Cluster) -> None:
    before = {pod["metadata"]["name"] for pod in installed.pods()}
    with installed.load(RATE) as outcome, pytest.raises(Refused, match="rolled back due to atomic"):
        installed.apply("upgrade", VALUES, "--atomic", "--timeout", "45s", "--set", "settings.model_alias=nobody")
    assert outcome["failed"] == 0, outcome
    assert before == {pod["metadata"]["name"] for pod in installed.pods()}
    assert json.loads(installed.helm("status", "--output", "json"))["info"]["status"] == "deployed"


def test_a_killed_pod_costs_only_its_calls_in_flight(installed: Cluster) -> None:
    name = installed.pods()[0]["metadata"]["name"]
    with installed.load(RATE) as outcome:
        installed.kubectl("delete", "pod", name, "--grace-period=0", "--force")
        installed.kubectl("rollout", "status", f"deployment/{RELEASE}", "--timeout=180s")
    # Until kube-proxy knows, a new connection may still be sent to where the pod was; each call is 1/40 s.
    assert outcome["failed"] < 2 * RATE, outcome


def test_a_rollback_brings_the_earlier_revision(installed: Cluster) -> None:
    installed.helm("rollback", "1", "--wait", "--timeout", "240s")
    shown = installed.get("deployment", RELEASE)["spec"]["template"]["spec"]["containers"][0]["env"]
    assert not [entry for entry in shown if entry["name"] == "VIGIL_MAX_BATCH"]


def test_load_brings_pods_and_quiet_takes_them_away(installed: Cluster) -> None:
    scaled = ("autoscaling.enabled=true", "autoscaling.minReplicas=1", "autoscaling.maxReplicas=3")
    quick = ("autoscaling.cpuPercent=60", "autoscaling.scaleDownS=5")
    installed.apply("upgrade", VALUES, *(part for value in (*scaled, *quick) for part in ("--set", value)))
    with installed.load(10 * RATE):
        until("more pods", lambda: len(installed.pods()) > 1 and _cpu(installed) > 60, limit_s=180)
    until("fewer pods", lambda: len(installed.pods()) == 1, limit_s=240)


def test_a_canary_gets_calls_and_fails_none(installed: Cluster) -> None:
    with installed.load(RATE) as outcome:
        installed.apply("upgrade", VALUES, "--set", "canary.enabled=true", "--set", "canary.settings.max_batch=256")
        names = {pod["metadata"]["labels"]["track"]: pod["metadata"]["name"] for pod in installed.pods()}
        assert set(names) == {"stable", "canary"}
        for name in names.values():
            until("calls", lambda name=name: installed.counted(name, "vigil_decisions_total") > 0)
    assert outcome["failed"] == 0, outcome


def test_stream_workers_score_a_topic_once(installed: Cluster) -> None:
    workers = "stream.enabled=true,stream.replicas=2,kafka.trial.enabled=true"
    installed.apply("upgrade", VALUES, "--wait-for-jobs", "--set", workers)
    installed.kubectl("rollout", "status", f"deployment/{RELEASE}-stream", "--timeout=120s")
    topic = f"kafka://{RELEASE}-kafka:9092/vigil.events.payments"
    # Slowly: a worker that is ready may still be on its way into the group.
    installed.done("feed", "vigil", "simulate", "--to", topic, "--rate", "50", "--count", str(EVENTS))

    def decided() -> list[float]:
        series = 'vigil_stream_records_total{outcome="decision"}'
        return [installed.counted(pod["metadata"]["name"], series, 9100) for pod in installed.pods("stream")]

    until("all decisions", lambda: sum(decided()) >= EVENTS)
    assert sum(decided()) == EVENTS
    assert len(decided()) == 2
    assert min(decided()) > 0


@pytest.mark.parametrize("values", ["keda", "gateway", "knative", "knative-grpc", "hpa"])
def test_what_operators_read_is_accepted_strictly(cluster: Cluster, definitions: None, values: str) -> None:
    found = objects(rendered(CHART / "ci" / f"{values}-values.yaml"))
    # A pod is refused where its service account is not there yet, and this installs nothing.
    found = [thing for thing in found if thing["kind"] != "Pod"]
    for thing in found:
        thing["metadata"]["namespace"] = cluster.namespace
    text = yaml.safe_dump_all(found)
    cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "--filename", "-", given=text)


def test_a_typo_for_an_operator_is_refused(cluster: Cluster, definitions: None) -> None:
    found = objects(rendered(CHART / "ci" / "keda-values.yaml"))
    thing = next(thing for thing in found if thing["kind"] == "ScaledObject")
    thing["metadata"]["namespace"] = cluster.namespace
    thing["spec"]["polingInterval"] = 5
    with pytest.raises(Refused, match="polingInterval"):
        cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", given=yaml.safe_dump(thing))


def test_an_uninstall_leaves_nothing(installed: Cluster) -> None:
    installed.helm("uninstall", "--wait", "--timeout", "120s")
    kinds = "deployments,statefulsets,replicasets,services,endpointslices,configmaps,secrets,serviceaccounts,jobs"
    more = "persistentvolumeclaims,horizontalpodautoscalers,poddisruptionbudgets,networkpolicies,pods"

    def left() -> list[str]:
        found = installed.kubectl("get", f"{kinds},{more}", "--output", "name").split()
        return [name for name in found if name not in ("configmap/kube-root-ca.crt", "serviceaccount/default")]

    until("all of it to go", lambda: not left(), limit_s=60)


@pytest.fixture(scope="session")
def definitions(cluster: Cluster) -> None:
    """The operators' definitions, where the cluster has none; they stay."""
    for path in sorted((Path(__file__).parent / "crds").glob("*.yaml")):
        name = yaml.safe_load(path.read_text())["metadata"]["name"]
        try:
            cluster.kubectl("get", "crd", name)
        except Refused:
            cluster.kubectl("apply", "--server-side", "--filename", str(path))
            cluster.kubectl("wait", f"crd/{name}", "--for=condition=Established", "--timeout=30s")


def _all_pods(cluster: Cluster) -> list[dict[str, object]]:
    found: list[dict[str, object]] = cluster.get("pods", "--selector", "app.kubernetes.io/component=serve")["items"]
    return found


def _cpu(cluster: Cluster) -> int:
    metrics = cluster.get("horizontalpodautoscaler", RELEASE)["status"].get("currentMetrics") or [{}]
    return int(metrics[0].get("containerResource", {}).get("current", {}).get("averageUtilization", 0))
