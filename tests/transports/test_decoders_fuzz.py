"""Whatever bytes come, a decoder gives a value or says what is wrong: no other exception, no hang, no growth."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import httpx
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from testbed import tiny_model
from tests.serving.calls import payment, tensor
from vigil import domains
from vigil.domains.schema import Schema
from vigil.errors import VigilError
from vigil.serving.process import ServingProcess
from vigil.settings import Settings
from vigil.transports.grpc.decisions import events_of, labels_of
from vigil.transports.http.lane import Lane
from vigil.transports.proto import decisions_pb2

PAYMENTS = domains.load("payments")
SCHEMA = Schema(PAYMENTS)
WIDTH = len(PAYMENTS.features)
MAX_BODY_BYTES = 200_000
INFER = "/v2/models/payments/infer"
LOAD = "/v2/repository/models/payments/load"
EXAMPLES = settings(max_examples=300, deadline=None, database=None)
Post = Callable[..., httpx.Response]

BIG = "1" + "0" * 400
# Each as the text of a JSON value.
NUMBERS = [BIG, "-" + BIG, "1" * 5000, "1e400", "-1e400", "1e-400", "NaN", "-Infinity", "1.5", "-0.0", "9" * 20]
TEXTS = ['""', '"\\ud800"', '"\\u0000"', '"\x7f"', '"' + "x" * 129 + '"']
TIMES = ['"2018-09-30T24:00:00Z"', '"0001-01-01T00:00:00+23:59"', '"9999-12-31T23:59:59-23:59"']
NESTED = [*("[" * depth + "]" * depth for depth in (900, 960, 980, 990, 50_000)), '{"a":' * 960 + "1" + "}" * 960]
ODD = st.sampled_from([*NUMBERS, *TEXTS, *TIMES, *NESTED, "null", "true", "[]", "{}", "["])
PLAIN = {"event": json.dumps(payment("fuzzed")).encode(), "infer": json.dumps(tensor([[1.0] * WIDTH])).encode()}


async def behind(scope: Any, receive: Any, send: Any) -> None:
    """There is nothing behind the lane."""


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    """Posts to the routes of a worker with a model, in this process."""
    folder = tmp_path_factory.mktemp("decoders")
    limits = {"domains": "payments", "grpc_port": 0, "max_body_bytes": MAX_BODY_BYTES}
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setenv("BENTOML_HOME", str(folder / "bento"))
        tiny_model.store(folder, PAYMENTS)
        worker = ServingProcess(Settings(state_dir=folder / "state", **limits))
        runner.run(worker.start())
        transport = httpx.ASGITransport(Lane(behind, worker))
        client = httpx.AsyncClient(transport=transport, base_url="http://localhost")
        yield lambda path, body, headers=None: runner.run(client.post(path, content=body, headers=headers))
        runner.run(client.aclose())
        runner.run(worker.stop())


def check(answer: httpx.Response) -> None:
    assert answer.status_code in (200, 400, 404, 409, 413, 415), answer.text
    if answer.status_code != 200:
        assert set(answer.json()) == {"error"}


def outcome(decode: Callable[..., Any], *arguments: Any) -> Any:
    """What a decoder gives, or the message of its VigilError."""
    try:
        return decode(*arguments)
    except VigilError as failure:
        return str(failure)


def changed(plain: bytes, at: float, cut: int, put: bytes) -> bytes:
    """`plain` with `put` in the place of `cut` of its bytes."""
    start = int(at * len(plain))
    return plain[:start] + put + plain[start + cut :]


MUTATED = {
    name: st.builds(changed, st.just(plain), st.floats(0, 1), st.integers(0, 20), st.binary(max_size=20))
    for name, plain in PLAIN.items()
}
BODIES = st.one_of(st.binary(max_size=300), ODD.map(str.encode), *MUTATED.values())


@seed(1)
@EXAMPLES
@given(body=BODIES, array=st.booleans(), bom=st.booleans())
def test_bytes_are_events_labels_or_refused(body: bytes, array: bool, bom: bool) -> None:
    raw = (b"\xef\xbb\xbf" if bom else b"") + (b"[" + body + b"]" if array else body)
    for decode in (SCHEMA.decode, SCHEMA.decode_feedback):
        assert outcome(decode, raw)


@seed(2)
@EXAMPLES
@given(field=st.sampled_from([*SCHEMA.fields, "label", "colour"]), odd=ODD)
def test_an_odd_value_of_any_field_is_taken_or_refused(post: Post, field: str, odd: str) -> None:
    fields = {"event_id": '"odd"', "ts": "1538308800000", "customer": '"C"', "terminal": '"T"', "amount": "3"}
    body = ",".join(f'"{name}":{value}' for name, value in (fields | {field: odd}).items())
    for raw in (f"{{{body}}}", f"[{{{body}}}]"):
        check(post("/v1/payments/score", raw.encode()))
    label = {"event_id": '"odd"', "label": "1"} | ({field: odd} if field in ("event_id", "label") else {})
    check(post("/v1/payments/feedback", ("{" + ",".join(f'"{k}":{v}' for k, v in label.items()) + "}").encode()))


@seed(3)
@EXAMPLES
@given(
    part=st.sampled_from(["name", "datatype", "shape", "data", "parameters", "id", "outputs", "inputs", "timeout"]),
    odd=st.one_of(ODD, ODD.map(lambda odd: f"[{odd}]"), ODD.map(lambda odd: f"[{odd},{WIDTH}]")),
)
def test_an_odd_part_of_a_tensor_is_taken_or_refused(post: Post, part: str, odd: str) -> None:
    data = json.dumps([1.0] * WIDTH)
    inner = {"name": '"features"', "datatype": '"FP32"', "shape": f"[1,{WIDTH}]", "data": data}
    inner |= {part: odd} if part in inner else {"parameters": odd} if part == "parameters" else {}
    outer = {"inputs": "[{" + ",".join(f'"{k}":{v}' for k, v in inner.items()) + "}]"}
    outer |= {part: odd} if part in ("id", "outputs", "inputs") else {}
    outer |= {"parameters": f'{{"timeout":{odd}}}'} if part == "timeout" else {}
    body = "{" + ",".join(f'"{k}":{v}' for k, v in outer.items()) + "}"
    check(post(INFER, body.encode()))
    check(post(LOAD, f'{{"parameters":{odd}}}'.encode()))


@seed(4)
@EXAMPLES
@given(
    body=BODIES,
    pack=st.sampled_from([None, gzip.compress, zlib.compress, lambda body: gzip.compress(body) + b"more"]),
    encoding=st.sampled_from([None, "gzip", "deflate", "br", "identity", "\xb2"]),
    length=st.one_of(
        st.none(), st.integers(-5, 400).map(str), st.sampled_from(["9" * 5000, "\xb2", "1e3", "0x1", "+1"])
    ),
    tail=st.binary(max_size=16),
)
def test_no_framing_of_a_body_gets_through(
    post: Post, body: bytes, pack: Any, encoding: str | None, length: str | None, tail: bytes
) -> None:
    headers = {"content-encoding": encoding, "inference-header-content-length": length}
    given_ = {name: value.encode("latin-1") for name, value in headers.items() if value is not None}
    raw = body + tail
    check(post(INFER, pack(raw) if pack else raw, given_))


@pytest.mark.parametrize("unit", [b" ", b"[", b'{"a":', b"[0,", b'[""', b"1", b'"', b"\\u0000"])
def test_a_small_body_takes_little_time_and_memory_whatever_it_unpacks_to(post: Post, unit: bytes) -> None:
    packed = gzip.compress(unit * (50_000_000 // len(unit)))[: MAX_BODY_BYTES - 1]
    started_s = perf_counter()
    tracemalloc.start()
    check(post(INFER, packed, {"content-encoding": "gzip"}))
    check(post(INFER, unit * (MAX_BODY_BYTES // len(unit))))
    check(post("/v1/payments/score", unit * (MAX_BODY_BYTES // len(unit))))
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most_bytes < 40 * MAX_BODY_BYTES
    assert perf_counter() - started_s < 20


@pytest.mark.parametrize("rows", ["9223372036854775807", "4294967296", "0", "-1", BIG])
def test_a_shape_is_never_believed(post: Post, rows: str) -> None:
    body = PLAIN["infer"].replace(b'"shape": [1,', f'"shape": [{rows},'.encode())
    assert body != PLAIN["infer"]
    answer = post(INFER, body)
    assert answer.status_code == 400
    assert "wanted" in answer.json()["error"]


WORDS = st.text(max_size=5)
EVENTS = st.builds(
    decisions_pb2.Event,
    event_id=WORDS,
    ts_ms=st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
    entities=st.dictionaries(st.one_of(WORDS, st.sampled_from(SCHEMA.fields)), WORDS, max_size=3),
    numbers=st.dictionaries(st.one_of(WORDS, st.sampled_from(SCHEMA.fields)), st.floats(), max_size=3),
)


@seed(5)
@EXAMPLES
@given(events=st.lists(EVENTS, min_size=1, max_size=3))
def test_any_message_of_events_is_taken_or_refused(events: list[Any]) -> None:
    got = outcome(events_of, SCHEMA, events)
    assert "wanted" in got if isinstance(got, str) else len(got) == len(events)


@seed(6)
@EXAMPLES
@given(ids=st.lists(WORDS, max_size=3), label=st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)))
def test_any_message_of_labels_is_taken_or_refused(ids: list[str], label: int | None) -> None:
    got = outcome(labels_of, SCHEMA, [decisions_pb2.Label(event_id=each, label=label) for each in ids])
    assert "wanted" in got if isinstance(got, str) else [each.event_id for each in got] == ids
