"""The lane as an ASGI application: what overload gets, and what is handed on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.calls import payment
from vigil.serving.process import ServingProcess
from vigil.settings import Settings
from vigil.transports.http.lane import Lane

SCORE = "/v1/payments/score"


async def behind(scope: Any, receive: Any, send: Any) -> None:
    """The application behind the lane: it says so."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"behind"})


def drive(folder: Path, body: Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]], **settings: Any) -> Any:
    """Runs `body` with a client of a lane whose worker has no model."""

    async def main() -> Any:
        worker = ServingProcess(Settings(state_dir=folder / "state", domains="payments", grpc_port=0, **settings))
        await worker.start()
        transport = httpx.ASGITransport(Lane(behind, worker))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await body(client)
        await worker.stop()
        return answer

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bento"))


def test_a_full_queue_answers_429_and_when_to_come_back(tmp_path: Path) -> None:
    async def body(client: httpx.AsyncClient) -> list[httpx.Response]:
        return await asyncio.gather(*(client.post(SCORE, json=payment(f"p{i}")) for i in range(3)))

    taken, *refused = drive(tmp_path, body, max_queue=1)
    assert taken.status_code == 200
    assert {answer.status_code for answer in refused} == {429}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert refused[0].json()["error"].startswith("queue full: 1 rows wait of at most 1")


@pytest.mark.parametrize(
    "path", ["/", "/docs.json", "/schema.json", "/livez", "/healthz", "/metrics", "/static_content/index.css"]
)
def test_what_is_bentomls_is_handed_on(tmp_path: Path, path: str) -> None:
    assert drive(tmp_path, lambda client: client.get(path)).content == b"behind"


@pytest.mark.parametrize("path", ["/v1", "/v20/x", "/static_content/none", "/static_content/../x", "/" + "x" * 60_000])
def test_what_is_nobodys_is_answered_before_anything_counts_it_by_its_name(tmp_path: Path, path: str) -> None:
    answer = drive(tmp_path, lambda client: client.get(path))
    assert (answer.status_code, len(answer.content) < 2000) == (404, True)


def test_a_stopped_worker_is_not_ready(tmp_path: Path) -> None:
    async def main() -> str:
        worker = ServingProcess(Settings(state_dir=tmp_path / "state", domains="payments", grpc_port=0))
        before = worker.not_ready()
        await worker.start()
        await worker.stop()
        return f"{before}, {worker.not_ready()}"

    assert asyncio.run(main()) == "starting, stopping"
