"""Who gets a line in the access log."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from vigil.observe import calls
from vigil.serving.process import ServingProcess
from vigil.settings import Settings
from vigil.transports.http.lane import Lane

PATHS = ("/v2", "/v2/models/none", "/v2/models/payments")  # answered 200, 404 and, without a model, 503


async def behind(scope: Any, receive: Any, send: Any) -> None:
    """The application behind the lane."""


@pytest.fixture(autouse=True)
def no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bento"))


def statuses(folder: Path, caplog: pytest.LogCaptureFixture, share: float) -> tuple[bool, list[str]]:
    """Whether calls were looked at, and the statuses in the access log, of 20 rounds of `PATHS`."""

    async def main() -> bool:
        settings = Settings(state_dir=folder / "state", domains="payments", grpc_port=0, access_log=share)
        worker = ServingProcess(settings)
        await worker.start()
        on = calls.on
        transport = httpx.ASGITransport(Lane(behind, worker))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for path in PATHS * 20:
                await client.get(path)
        await worker.stop()
        return on

    with caplog.at_level(logging.INFO, "vigil.access"):
        on = asyncio.run(main())
    records: list[Any] = [record for record in caplog.records if record.name == "vigil.access"]
    return on, [record.fields["status"] for record in records]


def test_it_is_off_unless_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert statuses(tmp_path, caplog, 0.0) == (False, [])


def test_with_a_share_of_1_every_call_has_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert statuses(tmp_path, caplog, 1.0) == (True, ["200", "404", "503"] * 20)


def test_faults_have_a_line_at_any_share(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert statuses(tmp_path, caplog, 1e-12) == (True, ["503"] * 20)


def test_a_line_takes_no_id_that_could_forge_another() -> None:
    for given, kept in (("order-7", "order-7"), ("x\nERROR", None), ('a" status=200', None), ("x" * 999, None)):
        call = calls.Report("http", "GET", {"x-request-id": given}, "", 0.0, None)
        assert call.ids().get("request_id") == kept
