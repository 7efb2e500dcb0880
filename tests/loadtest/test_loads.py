"""What the load generators say becomes figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadtest import h2load, wrk
from loadtest.outcome import outcome
from vigil.errors import VigilError

H2LOAD = """
finished in 2.01s, {rate} req/s, 1.57MB/s
requests: 4 total, 5 started, 4 done, {done} succeeded, {failed} failed, 0 errored, 0 timeout
status codes: 4 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.1KB (1126) total, 100B (100) headers (space savings 0.00%), {data}B ({data}) data
"""
LOG = "".join(f"179525497228551{i}\t200\t{i}000\n" for i in (1, 2, 3, 4))


def test_wrk_gives_rate_latencies_and_all_that_failed() -> None:
    load = wrk.parsed("Running 5s test\nRESULT 50000 5000000 3500.000000 7250.000000 12\n", "no account")
    assert load == wrk.Load(10_000.0, 3.5, 7.25, 12)


def test_wrk_without_an_account_is_a_failure_that_says_what_wrk_said() -> None:
    with pytest.raises(VigilError, match="unable to connect"):
        wrk.parsed("", "wrk: unable to connect to 127.0.0.1:1 Connection refused")


def test_h2load_gives_the_rate_it_states_and_latencies_from_its_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LOG)
    load = h2load.parsed(H2LOAD.format(rate="2000.50", done=4, failed=0, data=400), tmp_path / "log", "")
    assert (load.requests_per_s, load.p50_ms, load.errors) == (2000.5, 2.5, 0)
    assert 3.9 < load.p99_ms <= 4.0


def test_h2load_counts_messages_where_a_call_sends_several(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LOG)
    load = h2load.parsed(H2LOAD.format(rate="2.00", done=4, failed=0, data=40_000), tmp_path / "log", "", messages=100)
    assert (load.requests_per_s, load.errors) == (200.0, 0)


def test_a_grpc_error_has_no_message_and_counts_though_its_http_status_is_200(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LOG)
    assert h2load.parsed(H2LOAD.format(rate="2.00", done=4, failed=0, data=0), tmp_path / "log", "").errors == 4
    assert h2load.parsed(H2LOAD.format(rate="2.00", done=3, failed=1, data=400), tmp_path / "log", "").errors == 1


def test_h2load_without_a_log_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(VigilError, match="could not connect"):
        h2load.parsed("finished in 0.00us, 0.00 req/s", tmp_path / "log", "h2load: could not connect")


def test_only_what_was_answered_well_has_a_latency_and_what_was_not_answered_has_failed() -> None:
    statuses, took_ms = np.array([200, 200, 429, 500, 200]), np.array([1.0, 2.0, 900.0, 900.0, 3.0])
    run = outcome(statuses, took_ms, seconds=2.0, sent=7)
    assert (run.sent_per_s, run.good_per_s, run.refused_per_s, run.failed_per_s) == (3.5, 1.5, 0.5, 1.5)
    assert run.p50_ms == 2.0
    assert run.p99_ms <= 3.0


def test_a_run_without_a_good_answer_has_no_latency() -> None:
    run = outcome(np.array([429]), np.array([1.0]), seconds=1.0)
    assert run.p99_ms == float("inf")
