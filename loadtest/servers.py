"""The servers that `loadtest.bench` puts side by side, each set up as its own documentation does for throughput."""

from __future__ import annotations

from dataclasses import dataclass, field

from loadtest.calls import Call, Grpc, Http, Row
from testbed.served import LOCALHOST


def rows(row: Row) -> object:
    """A JSON body with an array of rows."""
    return {"features": [row]}


def one(row: Row) -> object:
    """A JSON body with a row."""
    return {"features": row}


@dataclass(frozen=True)
class Server:
    """One server.

    Args:
        key: as `--only` takes it.
        name: as the tables show it.
        setup: what was chosen, for the reader.
        command: arguments for Python; `{http}`, `{grpc}` and `{metrics}` are its ports.
        calls: the ways in that are measured.
        environment: variables for it, with the same ports.
        peer: whether it runs in the peers' own environment, `.venv-peers`, instead of Vigil's.
    """

    key: str
    name: str
    setup: str
    command: tuple[str, ...]
    calls: tuple[Call, ...]
    environment: dict[str, str] = field(default_factory=dict)
    peer: bool = True


BENTOML = ("-m", "bentoml", "serve")
STOCK = (*BENTOML, "loadtest.peers.stock_bentoml:Stock", "--host", LOCALHOST, "--port", "{http}")
SERVERS = (
    Server(
        "vigil",
        "Vigil",
        "`bentoml serve`, one worker, metrics on; HTTP and gRPC are the same process",
        (*BENTOML, ".", "--host", LOCALHOST, "--port", "{http}"),
        (Http(), Grpc()),
        {"VIGIL_GRPC_PORT": "{grpc}", "VIGIL_DOMAINS": "payments"},
        peer=False,
    ),
    Server(
        "stock",
        "BentoML, plain",
        "`@bentoml.api` with NumPy arrays, one worker",
        STOCK,
        (Http("/infer", rows, (0, 0)),),
        peer=False,
    ),
    Server(
        "batchable",
        "BentoML, batchable",
        "`@bentoml.api(batchable=True)`, its defaults, one worker",
        STOCK,
        (Http("/batched", rows, (0, 0)),),
        peer=False,
    ),
    Server(
        "fastapi",
        "FastAPI + ONNX Runtime",
        "`async def`, pydantic models in and out; one uvicorn worker on uvloop and httptools, no access log",
        tuple(
            f"-m uvicorn loadtest.peers.fastapi_onnx:app --host {LOCALHOST} --port {{http}} --workers 1 --loop uvloop "
            "--http httptools --no-access-log".split()
        ),
        (Http("/infer", rows, ("risk", 0, 0)),),
    ),
    Server(
        "litserve",
        "LitServe",
        "batches of at most 64 within 1 ms, `fast_queue`; one server and one worker process",
        ("-m", "loadtest.peers.litserve_onnx", "{http}"),
        (Http("/predict", one, ("risk", 0)),),
    ),
    Server(
        "mosec",
        "mosec",
        "batches of at most 64 within 1 ms; its Rust server and one worker process use both cores",
        ("-m", "loadtest.peers.mosec_onnx", "--address", LOCALHOST, "--port", "{http}", "--log-level", "warning"),
        (Http("/inference", one, ("risk", 0)),),
    ),
    Server(
        "mlserver",
        "MLServer",
        "custom runtime in the server's process (`parallel_workers` 0; its pool does not start beside uvloop 0.23), "
        "`debug` off",
        ("-c", "from mlserver.cli import main; main()", "start", "loadtest/peers/mlserver"),
        (Http(), Grpc()),
        {
            "MLSERVER_HOST": LOCALHOST,
            "MLSERVER_HTTP_PORT": "{http}",
            "MLSERVER_GRPC_PORT": "{grpc}",
            "MLSERVER_METRICS_PORT": "{metrics}",
            "MLSERVER_PARALLEL_WORKERS": "0",
            "MLSERVER_DEBUG": "false",
        },
    ),
    Server(
        "triton",
        "Triton, python backend",
        "from `nvidia-pytriton`, dynamic batches of at most 64; several processes and threads use both cores",
        ("-m", "loadtest.peers.triton_onnx", "{http}", "{grpc}", "{metrics}"),
        (Http(), Grpc()),
    ),
    Server(
        "grpc-aio",
        "grpc.aio",
        "a bare servicer of ModelInfer on uvloop, one process, no metrics",
        ("-m", "loadtest.peers.grpc_aio", "{grpc}"),
        (Grpc(),),
        peer=False,
    ),
)
