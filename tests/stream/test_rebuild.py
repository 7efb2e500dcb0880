"""Laws of state that is made again from Kafka."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from typer.testing import CliRunner

from testbed.valkey import Valkey
from tests.stream.conftest import DOMAIN, Stream, events_of, history, labels_of, rows_of
from vigil import cli
from vigil.features import transfer
from vigil.features.memory.store import MemoryStore
from vigil.settings import Settings


def rebuild(stream: Stream, **settings: str) -> None:
    at = f"kafka://{stream.broker.address}/{stream.names['events']}"
    command = ["features", "rebuild", "--data", at, "--feedback", stream.names["feedback"], "--replace"]
    result = CliRunner().invoke(cli.app, command, env=settings)
    assert result.exit_code == 0, result.output


def test_a_state_made_again_goes_on_like_the_offline_computation(stream: Stream, tmp_path: Path) -> None:
    past = history(150, 20, customers=200, terminals=50)
    events, half = events_of(past), len(past) // 2
    labels = labels_of(past)
    stream.produce("feedback", labels[half:])
    stream.produce("events", [*events[:half], (b"no event", b"k"), *events[half - 20 : half]])
    stream.produce("feedback", labels[:half])
    with Valkey() as server:
        rebuild(stream, VIGIL_STATE_URL=server.url)
        shared = transfer.export(DOMAIN, Settings(state_url=server.url), tmp_path / "out", lambda done: None)
    rest = replace(
        past,
        event_ids=past.event_ids[half:],
        ts_ms=past.ts_ms[half:],
        keys={name: column[half:] for name, column in past.keys.items()},
        numbers={name: column[half:] for name, column in past.numbers.items()},
        labels=past.labels[half:],
    )
    assert shared.replay(rest).tobytes() == MemoryStore(DOMAIN).replay(past)[half:].tobytes()


def test_a_worker_with_such_a_state_in_memory_goes_on_behind_what_was_read(stream: Stream) -> None:
    past = history(150, 20, customers=200, terminals=50)
    events, half = events_of(past), len(past) // 2
    stream.produce("feedback", labels_of(past))
    stream.produce("events", events[:half])
    stream.run()
    rebuild(stream, VIGIL_STATE_DIR=str(stream.folder / "another"))
    stream.produce("events", events[half:])
    said = stream.run(state="another")
    assert f"{len(past) - half:,} decisions" in said
    assert rows_of(stream.decisions(), past).tobytes() == MemoryStore(DOMAIN).replay(past).tobytes()
