"""kubectl and helm against the cluster that KUBECONFIG names."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helm.chart import CHART, TOOLS

RELEASE = "vigil"
LOAD = Path(__file__).with_name("load.py")
LIMIT_S = 300


class Refused(Exception):
    """A command that ended with an error; its text is what the command said."""


def run(*command: str, given: str = "") -> str:
    """What a command prints.

    Raises:
        Refused: where it ends with an error.
    """
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode:
        raise Refused(f"{' '.join(command)[:300]}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


class Cluster:
    """A namespace of a cluster.

    Args:
        namespace: its name.
        image: Vigil's, as `registry/name:tag`.
    """

    def __init__(self, namespace: str, image: str) -> None:
        self.namespace, self.image = namespace, image

    def kubectl(self, *arguments: str, given: str = "") -> str:
        """As :func:`run`, in the namespace."""
        return run(shutil.which("kubectl") or "kubectl", "--namespace", self.namespace, *arguments, given=given)

    def get(self, *arguments: str) -> Any:
        """What `kubectl get` finds."""
        return json.loads(self.kubectl("get", *arguments, "--output", "json"))

    def helm(self, verb: str, *arguments: str) -> str:
        """As :func:`run`: a verb of Helm's on the release."""
        return run(str(TOOLS / "helm"), verb, RELEASE, *arguments, "--namespace", self.namespace)

    def apply(self, verb: str, values: Path, *arguments: str, chart: Path = CHART) -> str:
        """Installs or upgrades, and waits until all pods are ready."""
        name, _, tag = self.image.rpartition(":")
        image = ("--set", f"image.repository={name}", "--set-string", f"image.tag={tag}")
        what = (str(chart), "--values", str(values), *image, "--wait", "--timeout", "240s")
        try:
            return self.helm(verb, *what, *arguments)
        except Refused as failure:
            seen = self.kubectl("get", "pods,persistentvolumeclaims,events")
            raise Refused(f"{failure}\n{seen[-6000:]}") from failure

    def pods(self, component: str = "serve") -> list[dict[str, Any]]:
        """Those that are not on their way out."""
        found = self.get("pods", "--selector", f"app.kubernetes.io/component={component}")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def python(self, pod: str, code: str) -> str:
        """What a program prints in one of Vigil's pods."""
        return self.kubectl("exec", pod, "--", "python", "-c", code)

    def key(self, entry: str = "key") -> str:
        """One of the keys that the chart has made."""
        return base64.b64decode(self.get("secret", f"{RELEASE}-keys")["data"][entry]).decode()

    def counted(self, pod: str, series: str, port: int = 3000) -> float:
        """A counter of a pod, of all series whose names begin so."""
        address = f"http://127.0.0.1:{port}/metrics"
        call = f"web.Request('{address}', headers={{'X-API-Key': '{self.key('metrics-key')}'}})"
        said = self.python(pod, f"import urllib.request as web; print(web.urlopen({call}).read().decode())")
        return sum(float(line.rpartition(" ")[2]) for line in said.splitlines() if line.startswith(series))

    def start(self, name: str, *arguments: str) -> None:
        """Starts a pod of Vigil's image, locked down, with a command."""
        self.kubectl("apply", "--filename", "-", given=json.dumps(_pod(name, self.image, arguments, self.key())))

    def done(self, name: str, *arguments: str) -> str:
        """What such a pod has printed at its end; the pod is gone then."""
        self.start(name, *arguments)
        try:
            self.kubectl("wait", f"pod/{name}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s")
            return self.kubectl("logs", name)
        finally:
            self.kubectl("delete", "pod", name, "--now")

    @contextmanager
    def load(self, rate: float) -> Iterator[dict[str, Any]]:
        """Calls at a constant rate for as long as the block lasts; what became of them is in the dictionary then."""
        outcome: dict[str, Any] = {}
        host = f"{RELEASE}.{self.namespace}.svc"
        self.start("load", "python", "-c", LOAD.read_text(), host, str(rate))
        try:
            until("the load to start", lambda: "started" in self.kubectl("logs", "load"))
            yield outcome
            self.kubectl("exec", "load", "--", "python", "-c", "import os; os.kill(1, 15)")
            self.kubectl("wait", "pod/load", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
            outcome.update(json.loads(self.kubectl("logs", "load").splitlines()[-1]))
        finally:
            self.kubectl("delete", "pod", "load", "--now", "--ignore-not-found")


def _pod(name: str, image: str, arguments: tuple[str, ...], key: str) -> dict[str, Any]:
    locked = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": arguments,
        "env": [{"name": "VIGIL_CLIENT_KEY", "value": key}],
        "securityContext": locked,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    spec = {
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def until(what: str, true: Any, limit_s: float = 120.0) -> None:
    """Waits until `true()` is, looking twice a second.

    Raises:
        AssertionError: when the time is over.
    """
    end_s = time.monotonic() + limit_s
    said = ""
    while time.monotonic() < end_s:
        try:
            if true():
                return
        except (Refused, subprocess.TimeoutExpired) as failure:
            said = str(failure)
        time.sleep(0.5)
    raise AssertionError(f"waited {limit_s:.0f} s for {what}; {said}")


def image() -> str:
    """Name of the image to test: `IMAGE`, as the cluster knows it."""
    return os.environ["IMAGE"]
