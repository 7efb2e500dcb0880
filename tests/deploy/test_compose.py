"""`compose.yaml`, as the parser of `docker compose` reads it, held against what the program knows."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from loadtest.scenario import load
from tests.conftest import ROOT, tool
from vigil import cli, settings

PROFILES = "stream", "monitoring", "feed"
ALWAYS = {"keys", "vigil", "valkey"}
LOAD = "load", "load-worker"  # only when asked for
OURS = "vigil", "stream", "feed", "feed-stream"
ONCE = {"keys", "topics"}
# What the images declare as such.
VOLUMES = {
    "/apache/kafka:": {"/etc/kafka/secrets", "/var/lib/kafka/data", "/mnt/shared/config"},
    "/prom/prometheus:": {"/prometheus"},
}


def words(command: str | list[str] | None) -> list[str]:
    """A command as the container gets it; none: the one of the image."""
    return shlex.split(command) if isinstance(command, str) else command or []


@pytest.fixture(scope="module")
def whole() -> Any:
    """All services, those of every profile."""
    command = [tool("compose-go"), "-format", "json", "compose.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)["services"]


def test_everything_comes_up_unless_a_profile_is_left_out(whole: Any) -> None:
    assert f"COMPOSE_PROFILES={','.join(PROFILES)}" in (ROOT / ".env").read_text().splitlines()
    grouped = {service for profile in PROFILES for service, of in whole.items() if profile in of.get("profiles", [])}
    assert set(whole) == ALWAYS | grouped | set(LOAD)
    assert all(whole[name]["profiles"] == ["load"] for name in LOAD)


@pytest.mark.parametrize("left_out", PROFILES)
def test_the_rest_depends_on_nothing_of_a_profile_that_is_left_out(left_out: str, whole: Any) -> None:
    rest = {name for name, service in whole.items() if left_out not in service.get("profiles", [])}
    needed = {
        other for name in rest for other, how in whole[name].get("depends_on", {}).items() if how.get("required", True)
    }
    assert needed <= rest


def test_only_the_loopback_interface_is_published(whole: Any) -> None:
    ports = [port for service in whole.values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert len({port["published"] for port in ports}) == len(ports)


@pytest.mark.parametrize("name", OURS)
def test_settings_and_commands_are_those_that_the_program_has(name: str, whole: Any, tmp_path: Path) -> None:
    service = whole[name]
    for made in ("key", "state-url"):  # by the service `keys`, where the others look
        (tmp_path / made).write_text(f"redis://{made}")
        assert f"> {made}\n" in whole["keys"]["command"][2].replace(" &&", "") + "\n"
    given = service.get("environment", {})
    settings.load({key: value.replace("@/keys", f"@{tmp_path}") for key, value in given.items()})
    match words(service.get("command")):
        case []:
            return
        case ["vigil", subcommand, *arguments]:
            command = typer.main.get_command(cli.app).commands[subcommand]  # type: ignore[attr-defined]
            command.make_context(subcommand, arguments)
        case other:
            pytest.fail(f"{name} runs {shlex.join(other)}")


def test_no_container_has_rights_or_takes_all_memory(whole: Any) -> None:
    for service in whole.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"]


@pytest.mark.parametrize("name", OURS)
def test_our_containers_write_nothing_but_their_state(name: str, whole: Any) -> None:
    service = whole[name]
    assert f"IMAGE ?= {service['image']}\n" in (ROOT / "Makefile").read_text()
    assert service["read_only"] is True


@pytest.mark.parametrize("name", LOAD)
def test_load_generators_write_nothing_and_are_made_from_our_image(name: str, whole: Any) -> None:
    service = whole[name]
    assert service["read_only"] is True
    assert service["build"]["args"]["VIGIL_IMAGE"] == whole["vigil"]["image"]
    assert (ROOT / service["build"]["dockerfile"]).is_file()


def test_load_generators_get_options_that_locust_and_the_scenarios_have(whole: Any) -> None:
    locust = [sys.executable, "-m", "locust", "--locustfile", "loadtest/locustfile.py", "--list"]
    for name in LOAD:
        command = [*locust, *words(whole[name]["command"])]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert (done.returncode, "HttpOne" in done.stdout) == (0, True), done.stderr
    master = words(whole["load"]["command"])
    assert load(master[master.index("--scenario") + 1])
    assert "--master-host load" in shlex.join(words(whole["load-worker"]["command"]))


def test_what_others_wait_for_is_healthy_or_has_ended_well(whole: Any) -> None:
    for service in whole.values():
        for other, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other in ONCE else "service_healthy"
            assert how["condition"] == wanted
            assert other in ONCE or other == "vigil" or "test" in whole[other]["healthcheck"]


def test_what_is_mounted_is_there(whole: Any) -> None:
    volumes = [volume for service in whole.values() for volume in service.get("volumes", [])]
    sources = [Path(volume["source"]) for volume in volumes if volume["type"] == "bind"]
    assert {source.relative_to(ROOT).parts[0] for source in sources} == {"deploy", "helm"}
    assert all(source.is_file() or any(source.iterdir()) for source in sources)


@pytest.fixture(scope="module")
def scraped() -> Any:
    """What Prometheus scrapes, by the name of the job."""
    configured = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["scrape_configs"]
    return {job["job_name"]: job for job in configured}


def test_prometheus_scrapes_services_on_ports_that_they_listen_on(scraped: Any, whole: Any) -> None:
    assert [group["targets"] for group in scraped["vigil"]["static_configs"]] == [["vigil:3000"]]
    stream = f"stream:{whole['stream']['environment']['VIGIL_STREAM_METRICS_PORT']}"
    assert {"target_label": "__address__", "replacement": stream} in scraped["vigil-stream"]["relabel_configs"]


def test_prometheus_misses_nothing_of_a_profile_that_is_left_out(scraped: Any, whole: Any) -> None:
    for job in scraped.values():
        fixed = {target.partition(":")[0] for group in job.get("static_configs", []) for target in group["targets"]}
        assert fixed <= ALWAYS
        if fixed == {"vigil"}:
            assert job["authorization"] == {"credentials_file": "/keys/metrics-key"}
    [looked_up] = scraped["vigil-stream"]["dns_sd_configs"]
    assert all(whole[name]["profiles"] == ["stream"] for name in looked_up["names"])


@pytest.mark.parametrize("image", VOLUMES)
def test_an_image_leaves_no_volume_without_a_name_behind(image: str, whole: Any) -> None:
    services = [service for service in whole.values() if image in service["image"]]
    assert services
    for service in services:
        assert VOLUMES[image] <= {
            *service.get("tmpfs", []),
            *(volume["target"] for volume in service.get("volumes", [])),
        }


def test_kafka_has_the_topics_of_the_stream(whole: Any) -> None:
    made = " ".join(words(whole["topics"]["command"]))
    for name in ("stream", "feed-stream"):
        for part in words(whole[name]["command"]):
            if part.startswith("kafka://"):
                address = urllib.parse.urlsplit(part)
                assert address.netloc == "kafka:9092"
                assert f" {address.path.removeprefix('/')} " in made
