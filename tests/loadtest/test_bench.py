"""Peers side by side: who is measured, and what becomes of the figures."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from loadtest import bench, page
from loadtest.measured import Job, Line, Peer, Run, line, measure, reason
from loadtest.picture import draw
from loadtest.servers import SERVERS, Server
from loadtest.wrk import Load
from testbed import tiny_model
from testbed.served import ROOT, NotServed
from vigil import host
from vigil.errors import DataError, InvalidInput

ROW = [1.0, 0.5, 0.25]


def job(folder: Path, off_by: float = 0.0) -> Job:
    model = tiny_model.write_onnx(folder / "model.onnx", len(ROW))
    return Job(ROW, bench.own_risk(model, ROW) + off_by, model, seconds=1, connections=2, folder=folder)


def server(key: str) -> Server:
    return next(each for each in SERVERS if each.key == key)


def lines() -> list[Line]:
    return [
        Line("Vigil", "HTTP", 60_000.0, 0.8, 1.9, 0, 16.0, 180.0),
        Line("BentoML, plain", "HTTP", 1_500.0, 40.0, 90.0, 3, 640.0, 170.0),
        Line("grpc.aio", "gRPC", 8_000.0, 8.0, 9.0, 0, 120.0, 50.0),
    ]


def test_a_server_is_ready_once_it_gives_the_models_own_answer(tmp_path: Path) -> None:
    peer = server("grpc-aio")
    with Peer(peer, Path(sys.executable), job(tmp_path)) as up:
        assert peer.calls[0].ask(up.ports, ROW) == pytest.approx(job(tmp_path).risk, abs=1e-6)


def test_a_server_that_answers_nonsense_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(NotServed, match=r"grpc\.aio over gRPC answers 0\.\d+, the model itself 0\.\d+"):
        Peer(server("grpc-aio"), Path(sys.executable), job(tmp_path, off_by=0.001)).__enter__()


def test_a_server_that_does_not_come_up_is_one_line_and_the_others_go_on(tmp_path: Path) -> None:
    broken = Server(
        "a", "A", "", ("-c", "print('starting', flush=True); raise SystemExit('no such part')"), server("stock").calls
    )
    told: list[str] = []
    results = measure([broken, broken], {True: Path(sys.executable)}, job(tmp_path), 2, told.append)
    assert results.runs == {}
    assert list(results.missing) == ["A"]
    assert results.missing["A"].endswith("did not come up: no such part")
    assert told == ["round 1 of 2: A"]


def test_a_load_generator_that_is_not_installed_is_one_line_for_each_way_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    results = measure([server("grpc-aio")], {False: Path(sys.executable)}, job(tmp_path), 2, lambda doing: None)
    assert results.lines() == []
    assert results.missing == {
        "grpc.aio, gRPC": "h2load is not installed: `apt-get install nghttp2-client`",
    }


def test_a_line_holds_medians_and_the_sum_of_errors() -> None:
    runs = [Run(Load(rate, rate / 10, rate / 5, 2), rate * 2, rate * 3) for rate in (30.0, 10.0, 20.0)]
    assert line("A", "HTTP", runs) == Line("A", "HTTP", 20.0, 2.0, 4.0, 6, 40.0, 60.0)


def test_the_last_column_compares_within_a_protocol_only() -> None:
    assert [row[-1] for row in bench.cells(lines())] == ["", "40.0x", ""]


def test_keys_choose_servers_in_their_order_and_unknown_ones_are_refused() -> None:
    assert [each.key for each in bench.selected("stock,vigil")] == ["stock", "vigil"]
    assert bench.selected("") == list(SERVERS)
    with pytest.raises(InvalidInput, match=r"got 'nope', wanted some of vigil, stock"):
        bench.selected("vigil,nope")


def test_the_servers_that_run_beside_vigil_need_no_other_environment() -> None:
    assert {each.key for each in SERVERS if not each.peer} == {"vigil", "stock", "batchable", "grpc-aio"}


def test_every_peers_file_is_there() -> None:
    for each in SERVERS:
        for part in each.command:
            if part.startswith("loadtest.peers."):
                module = part.partition(":")[0]
                assert (ROOT / f"{module.replace('.', '/')}.py").is_file()


def test_the_picture_names_every_server_with_its_rate_and_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    draw(lines(), first)
    draw(lines(), second)
    assert first.read_bytes() == second.read_bytes()
    for text in ("Vigil", "BentoML, plain", "grpc.aio", "60,000/s, p99 1.9 ms", "gRPC, one row a request"):
        assert text in first.read_text()


def test_a_section_is_replaced_and_the_rest_of_the_page_stays(tmp_path: Path) -> None:
    at = tmp_path / "page.md"
    at.write_text("before\n<!-- a -->\nold\n<!-- /a -->\nafter\n")
    page.put(at, "a", "new")
    page.put(at, "a", page.markdown(("x", "y"), [("1", "2")]))
    assert at.read_text() == "before\n<!-- a -->\n| x | y |\n| --- | --- |\n| 1 | 2 |\n<!-- /a -->\nafter\n"


def test_a_page_without_the_markers_is_left_alone(tmp_path: Path) -> None:
    at = tmp_path / "page.md"
    at.write_text("before\n<!-- a -->\nold\n")
    with pytest.raises(DataError, match=r"wanted the markers <!-- a --> and <!-- /a -->"):
        page.put(at, "a", "new")
    assert at.read_text() == "before\n<!-- a -->\nold\n"


@pytest.mark.parametrize("name", ["make bench", "loadtest.limits"])
def test_the_page_of_benchmarks_has_a_place_for_each_command(name: str) -> None:
    text = (ROOT / "docs/benchmarks.md").read_text()
    assert text.count(f"<!-- {name} -->") == text.count(f"<!-- /{name} -->") == 1


def test_hardware_that_does_not_say_what_it_is_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r"\d+ cores of .+, \d+ GiB", page.hardware())
    monkeypatch.setattr(host, "memory_gib", lambda: None)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert re.fullmatch(r"unknown cores of .+, unknown memory", page.hardware())


def test_a_commit_is_unknown_where_git_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert page.commit() == "unknown"


def test_a_reason_is_one_line() -> None:
    assert reason(NotServed("x did not come up:\n\nTraceback\n  deep\nImportError: y\n")) == (
        "x did not come up: ImportError: y"
    )
    assert reason(OSError()) == "OSError"
