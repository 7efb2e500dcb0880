"""Whatever values a person gives, what is rendered is YAML that says them."""

from __future__ import annotations

import copy
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.chart import CHART, NEWEST, objects, tool, without_keys
from tests.helm.schemas import complaints

ODD = "*.x: #'\""
DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
# All that can be on at once; SETS are the choices between them.
FULL: dict[str, Any] = {
    "state": {"url": "", "existingSecret": "vigil-redis"},
    "stream": {"enabled": True},
    "metrics": {"monitors": True, "rules": True, "dashboards": True},
    "kafka": {"trial": {"enabled": True, "size": "1Gi"}},
    "tls": {"caSecret": "ca", "secret": "tls"},
    "imagePullSecrets": [{"name": "registry"}],
    "runtimeClassName": "gvisor",
    "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["redis"]}],
    "dnsConfig": {"searches": ["example.com"]},
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    "initContainers": [{"name": "first", "image": "busybox:1"}],
    "sidecars": [{"name": "beside", "image": "busybox:1"}],
    "service": {"type": "LoadBalancer", "loadBalancerClass": "mine", "externalTrafficPolicy": "Local"},
    "pod": {"priorityClassName": "first"},
    "commonLabels": {"team": "risk"},
}
SCALED = {
    "plain": {
        "autoscaling": {"enabled": True},
        "ingress": {"className": "nginx", "http": {"enabled": True}, "grpc": {"enabled": True}},
        "kafka": {"trial": {"enabled": False}, "brokers": "kafka:9092", "existingSecret": "kafka"},
    },
    "keda": {
        "keda": {"enabled": True, "prometheusUrl": "http://p:9090", "prometheusAuthentication": "p",
                 "kafkaAuthentication": "k"},
        "gateway": {"parentRefs": [{"name": "public"}], "http": {"enabled": True}, "grpc": {"enabled": True}},
        "canary": {"enabled": True, "by": "route"},
    },
    "memory": {"state": {"url": "memory:", "existingSecret": ""}},
    "valkey": {"state": {"existingSecret": ""}, "valkey": {"trial": {"enabled": True, "size": "1Gi"}}},
    "knative": {"knative": {"enabled": True}, "tls": {"secret": ""}},
}  # fmt: skip


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    """As Helm merges values: maps key by key, all else by the last."""
    made: dict[str, Any] = {}
    for part in copy.deepcopy(list(parts)):
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(made.get(key), dict)
            made[key] = merged(made[key], value) if both else value
    return made


SETS = {name: merged(FULL, more) for name, more in SCALED.items()}


def places(values: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where texts are."""
    if isinstance(values, str):
        yield at
    for key, value in (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    ):
        yield from places(value, (*at, key))


def put(values: dict[str, Any], at: tuple[Any, ...], value: object) -> dict[str, Any]:
    """A copy with another value at a place."""
    made = copy.deepcopy(values)
    inner: Any = made
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return made


@pytest.fixture(scope="module")
def unchecked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart without its schema."""
    chart = tmp_path_factory.mktemp("chart") / "helm"
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("values.schema.json", "dashboards"))
    return chart


def template(chart: Path, values: dict[str, Any], folder: Path, *more: str, release: str = "vigil") -> tuple[int, str]:
    """Helm's exit code, and what it rendered or said."""
    (folder / "values.yaml").write_text(yaml.safe_dump(values))
    arguments = ("--values", folder / "values.yaml", "--kube-version", NEWEST, "--namespace", "risk", *more)
    done = tool("helm", "template", release, chart, *arguments)
    return done.returncode, without_keys(done.stdout) if done.returncode == 0 else done.stderr


def texts(value: object) -> Iterator[str]:
    """Every text in it, keys included."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from itertools.chain(texts(key), texts(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


# What decides how things are made, and is no text of the user's: the schema lists its values.
CHOICES = {
    ("state", "url"), ("canary", "by"), ("knative", "protocol"), ("serve", "readiness"), ("service", "type"),
    ("state", "persistence", "storageClass"), ("nameOverride",), ("fullnameOverride",), ("tls", "secret"),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_every_text_arrives_whatever_is_in_it(name: str, unchecked: Path, tmp_path: Path) -> None:
    values = merged(DEFAULTS, SETS[name])
    odd = {
        at: f"{ODD} {'.'.join(map(str, at))}." for at in places(values) if at not in CHOICES and not other(values, at)
    }
    for at, text in odd.items():
        values = put(values, at, text)
    code, said = template(unchecked, values, tmp_path)
    assert code == 0, said
    arrived = " ".join(texts(objects(said)))
    assert [at for at, text in odd.items() if text not in arrived and used(name, at)] == []


def other(values: dict[str, Any], at: tuple[Any, ...]) -> bool:
    """Whether a set has chosen the other of two places that exclude each other."""
    return (at == ("kafka", "brokers") and values["kafka"]["trial"]["enabled"]) or (
        at == ("state", "existingSecret") and not values["state"]["existingSecret"]
    )


def used(name: str, at: tuple[Any, ...]) -> bool:
    """Whether a set of values shows a text at all."""
    section, on = at[0], SETS[name]
    if section in ("keda", "gateway", "ingress", "autoscaling", "canary", "knative", "valkey"):
        return section in SCALED[name] and at[1:2] != ("className",) and "tag" not in at and "digest" not in at
    if section == "kafka":
        return "trial" in at and on["kafka"]["trial"]["enabled"]
    if "strategy" in at:
        return name in ("plain", "keda")
    if section == "image":
        return at[1] == "repository"
    if section == "service":
        return name != "knative" and at[1] == "loadBalancerClass"
    if name == "knative":
        return section in ("tls",) and at[1] == "caSecret"
    return section in ("extraVolumes", "extraVolumeMounts", "initContainers", "sidecars", "hostAliases", "dnsConfig",
                       "runtimeClassName", "imagePullSecrets", "commonLabels", "stream", "tls")  # fmt: skip


SECURITY = ("podSecurityContext", "containerSecurityContext")
FREE = ("resources", "strategy", "event", *SECURITY)


def nulled(values: dict[str, Any], depth: int) -> dict[str, Any]:
    """Null for every key at a depth."""
    if depth == 0:
        return {key: None for key in values if key not in SECURITY}
    inner = {key: value for key, value in values.items() if isinstance(value, dict) and key not in FREE}
    return {key: nulled(value, depth - 1) for key, value in inner.items()}


def lacking(values: dict[str, Any], depth: int) -> dict[str, Any]:
    """The values without any key at a depth."""
    if depth == 0:
        return {key: value for key, value in values.items() if key in SECURITY}
    return {
        key: lacking(value, depth - 1) if isinstance(value, dict) and key not in FREE else value
        for key, value in values.items()
    }


@pytest.fixture(scope="module")
def as_it_comes(tmp_path_factory: pytest.TempPathFactory) -> str:
    code, said = template(CHART, {}, tmp_path_factory.mktemp("plain"))
    assert code == 0, said
    return said


@pytest.mark.parametrize("depth", range(3))
def test_what_is_null_means_its_default(depth: int, as_it_comes: str, tmp_path: Path) -> None:
    values = nulled(DEFAULTS, depth)
    assert values
    assert template(CHART, values, tmp_path) == (0, as_it_comes)


@pytest.mark.parametrize("depth", range(3))
def test_what_a_release_did_not_know_yet_means_its_default(depth: int, as_it_comes: str, tmp_path: Path) -> None:
    """`--reuse-values` leaves the chart's own values out."""
    chart = tmp_path / "helm"
    shutil.copytree(CHART, chart)
    (chart / "values.yaml").write_text(yaml.safe_dump(lacking(DEFAULTS, depth)))
    assert template(chart, {}, tmp_path) == (0, as_it_comes)


def test_the_templates_know_the_defaults_that_values_has() -> None:
    assert (CHART / "files/values.yaml").read_text() == (CHART / "values.yaml").read_text(), "make chart-docs copies it"


def pods_of(text: str) -> list[dict[str, Any]]:
    found = []
    for thing in objects(text):
        if thing["kind"] == "Pod":
            found.append(thing["spec"])
        elif "template" in thing.get("spec", {}):
            found.append(thing["spec"]["template"]["spec"])
    return found


@pytest.mark.parametrize("name", SETS)
def test_security_can_be_left_to_the_cluster_in_part_or_all(name: str, tmp_path: Path) -> None:
    chosen = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"))
    inner = dict.fromkeys(("runAsUser", "runAsGroup"))
    parts = {"podSecurityContext": chosen, "containerSecurityContext": inner}
    code, said = template(CHART, merged(SETS[name], parts), tmp_path)
    assert code == 0, said
    for pod in pods_of(said):
        ours = [each for each in pod["containers"] if each["name"] != "beside"]
        for held in (pod.get("securityContext", {}), *(each["securityContext"] for each in ours)):
            assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(held)
        assert all(each["securityContext"]["capabilities"] == {"drop": ["ALL"]} for each in ours)
    code, said = template(CHART, merged(SETS[name], dict.fromkeys(parts)), tmp_path)
    assert code == 0, said
    assert "securityContext" not in said


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("release", ["r" * 53, "vigil-" + "x" * 47, "a.b-" + "9" * 49, "v"])
def test_every_object_may_have_its_name(name: str, release: str, tmp_path: Path) -> None:
    code, said = template(CHART, SETS[name], tmp_path, release=release)
    assert code == 0, said
    made = objects(said)
    for thing in made:
        longest = {"StatefulSet": 52, "Service": 63, "Job": 63, "Deployment": 63, "Pod": 63}.get(thing["kind"], 253)
        assert len(thing["metadata"]["name"]) <= longest, thing["metadata"]["name"]
        labels = {**thing["metadata"]["labels"], **thing.get("spec", {}).get("selector", {}).get("matchLabels", {})}
        assert all(len(value) <= 63 for value in labels.values() if isinstance(value, str))
    names = [(thing["apiVersion"], thing["kind"], thing["metadata"]["name"]) for thing in made]
    assert len(names) == len(set(names))


def test_names_that_are_cut_differ_between_releases(tmp_path: Path) -> None:
    first, second = (
        {thing["metadata"]["name"] for thing in objects(template(CHART, {}, tmp_path, release="r" * 52 + end)[1])}
        for end in "ab"
    )
    assert not first & second


@pytest.mark.parametrize("name", SETS)
def test_the_sets_are_what_a_kubernetes_takes(name: str, tmp_path: Path) -> None:
    code, said = template(CHART, SETS[name], tmp_path)
    assert code == 0, said
    assert [line for thing in objects(said) for line in complaints(thing, NEWEST)] == []


def test_what_a_user_adds_is_in_every_pod_of_vigil(tmp_path: Path) -> None:
    _, said = template(CHART, SETS["plain"], tmp_path)
    pods = {
        thing["metadata"]["name"]: thing["spec"]["template"]["spec"]
        for thing in objects(said)
        if thing["kind"] == "Deployment"
    }
    assert set(pods) == {"vigil", "vigil-stream"}
    for pod in pods.values():
        assert [each["name"] for each in pod["containers"]] == ["vigil", "beside"]
        assert [each["name"] for each in pod["initContainers"]] == ["first"]
        assert {"name": "more", "emptyDir": {}} in pod["volumes"]
        [vigil] = [each for each in pod["containers"] if each["name"] == "vigil"]
        assert {"name": "more", "mountPath": "/more"} in vigil["volumeMounts"]
        assert {"name": "SSL_CERT_FILE", "value": "/etc/vigil-ca/ca.crt"} in vigil["env"]
        assert {"name": "ca", "mountPath": "/etc/vigil-ca", "readOnly": True} in vigil["volumeMounts"]
        assert pod["runtimeClassName"] == "gvisor"
        assert pod["dnsConfig"] == {"searches": ["example.com"]}
        assert pod["hostAliases"] == [{"ip": "10.0.0.1", "hostnames": ["redis"]}]
    [vigil] = [each for each in pods["vigil"]["containers"] if each["name"] == "vigil"]
    assert "--ssl-certfile" in vigil["args"]
    assert {vigil[probe]["httpGet"]["scheme"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")} == {
        "HTTPS"
    }


@pytest.mark.parametrize(
    ("kind", "ports"),
    [("ClusterIP", [{}, {}]), ("NodePort", [{"nodePort": 30080}, {}]), ("LoadBalancer", [{"nodePort": 30080}, {}])],
)
def test_a_service_has_only_what_its_type_may_have(kind: str, ports: list[dict[str, int]], tmp_path: Path) -> None:
    given = {"type": kind, "httpNodePort": 30080, "loadBalancerClass": "c", "loadBalancerSourceRanges": ["10.0.0.0/8"],
             "externalTrafficPolicy": "Local"}  # fmt: skip
    code, said = template(CHART, {"service": given}, tmp_path)
    assert code == 0, said
    [spec] = [t["spec"] for t in objects(said) if t["kind"] == "Service" and t["metadata"]["name"] == "vigil"]
    assert [{key: port[key] for key in port if key == "nodePort"} for port in spec["ports"]] == ports
    assert ("loadBalancerClass" in spec, "loadBalancerSourceRanges" in spec) == ((kind == "LoadBalancer"),) * 2
    assert ("externalTrafficPolicy" in spec) == (kind != "ClusterIP")


def test_a_deployment_can_be_made_anew_instead_of_rolled(tmp_path: Path) -> None:
    strategy = {"type": "Recreate", "rollingUpdate": None}
    _, said = template(CHART, merged(SETS["plain"], {"serve": {"strategy": strategy}}), tmp_path)
    [spec] = [t["spec"] for t in objects(said) if t["kind"] == "Deployment" and t["metadata"]["name"] == "vigil"]
    assert spec["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"state": {"url": ""}}, "state.url is empty: give memory:, redis://..., or state.existingSecret"),
        (merged(SETS["knative"], {"tls": {"secret": "t"}}), "knative.enabled with tls.secret"),
        ({"ingress": {"http": {"hosts": []}}}, "hosts"),
        ({"ingress": {"http": {"hosts": [{"host": "x", "paths": ["v1"]}]}}}, "paths"),
        ({"service": {"loadBalancerSourceRanges": ["10.0.0.0"]}}, "loadBalancerSourceRanges"),
        ({"hostAliases": "redis"}, "hostAliases"),
        ({"sidecars": {"name": "x"}}, "sidecars"),
        ({"podSecurityContext": "none"}, "podSecurityContext"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(values: dict[str, Any], said: str, tmp_path: Path) -> None:
    code, told = template(CHART, values, tmp_path)
    assert code != 0
    assert said in " ".join(told.split())
