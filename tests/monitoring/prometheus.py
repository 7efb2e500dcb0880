"""A real Prometheus and a real Alertmanager, with Vigil's rules and short intervals."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from testbed.served import LOCALHOST, Process, free_port
from tests.conftest import tool
from tests.monitoring.rules import FILES

EVERY = "500ms"


class Answering(Process):
    """A program that is ready once it says so over HTTP."""

    def __init__(self, command: Sequence[str], log: Path, port: int) -> None:
        self.address = f"{LOCALHOST}:{port}"
        super().__init__(command, log, {})

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class Alertmanager(Answering):
    """Sends alerts to `url` as they begin and end."""

    def __init__(self, folder: Path, url: str) -> None:
        port = free_port()
        route = {"receiver": "us", "group_by": ["..."], "group_wait": "0s", "group_interval": EVERY}
        receiver = {"name": "us", "webhook_configs": [{"url": url, "send_resolved": True}]}
        config = folder / "alertmanager.yaml"
        config.write_text(yaml.safe_dump({"route": route, "receivers": [receiver]}))
        arguments = [
            f"--config.file={config}",
            f"--storage.path={folder / 'alertmanager'}",
            f"--web.listen-address={LOCALHOST}:{port}",
            "--cluster.listen-address=",
        ]
        super().__init__([tool("alertmanager"), *arguments], folder / "alertmanager.log", port)


class Prometheus(Answering):
    """Scrapes `target` as the job "vigil", and tells `alertmanager`.

    The rules are those of helm/rules, but that an alert need not last before it fires.
    """

    def __init__(self, folder: Path, target: str, alertmanager: str) -> None:
        port, rules = free_port(), folder / "rules"
        rules.mkdir()
        for file in FILES:
            (rules / file.name).write_text(re.sub(r"^( +for:) \w+$", r"\1 0s", file.read_text(), flags=re.MULTILINE))
        config = folder / "prometheus.yaml"
        told = {
            "global": {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY},
            "rule_files": [f"{rules}/*.yaml"],
            "scrape_configs": [{"job_name": "vigil", "static_configs": [{"targets": [target]}]}],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        }
        config.write_text(yaml.safe_dump(told))
        arguments = [
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={LOCALHOST}:{port}",
        ]
        super().__init__([tool("prometheus"), *arguments], folder / "prometheus.log", port)

    def ask(self, path: str, **parameters: str) -> Any:
        """What its API answers to a GET; `status` must be "success"."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            told = json.load(answer)
        assert told["status"] == "success", told
        return told["data"]

    def query(self, query: str) -> list[Any]:
        """What a dashboard's query gives now."""
        found = self.ask("query", query=query.replace("$__rate_interval", "1m").replace("$job", ".*"))["result"]
        assert isinstance(found, list)
        return found
