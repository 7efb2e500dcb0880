"""One domain's engine: the same answer however events come, and bad ones count for nothing."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
import pytest
from prometheus_client import REGISTRY

import model_store
from testbed import tiny_model
from vigil import domains
from vigil.decisions.decision import Decision
from vigil.domains.schema import Feedback
from vigil.engine import Engine, limits_of
from vigil.errors import ConfigError, Conflict, DeadlineExceeded, InvalidEvent, ModelRefused, Unavailable
from vigil.features.memory.store import MemoryStore
from vigil.observe import metrics
from vigil.replay.rerun import Rerun
from vigil.scoring.caller import future_of
from vigil.scoring.served import ServedModel
from vigil.scoring.session import Session, stored_versions
from vigil.settings import Settings
from vigil.stream.lateness import Late, SourceTime, times_of
from vigil.stream.scorer import Scorer

PAYMENTS = domains.load("payments")
NOW_MS = 1_538_308_800_000


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    path = tiny_model.write_onnx(tmp_path_factory.mktemp("model") / "model.onnx", len(PAYMENTS.features))
    return Session(path.read_bytes(), "payments:1", "1", "digest", PAYMENTS.feature_names)


def engine(session: Session | None, problem: str = "", **changes: Any) -> Engine:
    settings = Settings(**changes)
    model = ServedModel(PAYMENTS, "champion", limits_of(settings), lambda: NOW_MS, session, problem)
    return Engine(PAYMENTS, settings, MemoryStore(PAYMENTS), model, lambda: NOW_MS, lambda: None)


def submit(engine: Engine, events: list[Any], with_features: bool = False, deadline_s: float | None = None) -> Any:
    return future_of(lambda caller: engine.submit(events, caller, with_features, deadline_s))


def infer(engine: Engine, rows: np.ndarray, deadline_s: float | None = None) -> Any:
    return future_of(lambda caller: engine.model.submit(rows, caller, None, deadline_s))


def decisions(engine: Engine, events: list[Any], with_features: bool = False) -> list[Decision]:
    decided = engine.decide(events, NOW_MS)
    if with_features:
        for decision, row in zip(decided.decisions, decided.features.tolist(), strict=True):
            decision.features = dict(zip(PAYMENTS.feature_names, row, strict=True))
    return decided.decisions


def called(engine: Engine, events: list[Any]) -> list[Decision]:
    async def main() -> list[Decision]:
        found: list[Decision] = await submit(engine, events)
        return found

    return asyncio.run(main())


def events(engine: Engine, count: int, **changes: Any) -> list[Any]:
    plain = PAYMENTS.example | {"ts": NOW_MS}
    return [
        engine.schema.make(
            plain | {"event_id": i, "customer": f"C{i % 5}", "amount": 1.0 + 37 * i % 400, "ts": NOW_MS + i} | changes
        )
        for i in range(count)
    ]


def test_events_one_by_one_together_and_batched_get_the_same_decisions(session: Session) -> None:
    alone, together, batched = engine(session), engine(session), engine(session)
    wanted = decisions(together, events(together, 60), with_features=True)
    assert [decisions(alone, [event], with_features=True)[0] for event in events(alone, 60)] == wanted

    async def main() -> list[Any]:
        return await asyncio.gather(*(submit(batched, [event], True) for event in events(batched, 60)))

    assert [one for [one] in asyncio.run(main())] == wanted


def test_a_large_call_is_taken_wherever_there_is_room_for_a_piece_of_it(session: Session) -> None:
    served = engine(session, max_queue=2 * 1024)

    async def main() -> list[Any]:
        small, rows = events(served, 1), np.zeros((3000, len(PAYMENTS.features)), np.float32)
        waits = [submit(served, small), infer(served, rows[:1])]
        return await asyncio.gather(*waits, submit(served, events(served, 3000)), infer(served, rows))

    assert [len(each) for each in asyncio.run(main())] == [1, 1, 3000, 3000]


def test_risks_are_counted_by_the_bins_of_the_models_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    tag = tiny_model.store(tmp_path, PAYMENTS, risk_edges=(0.2, 0.6), risk_shares=(0.25, 0.5, 0.25))
    served = engine(Session.load(PAYMENTS, "champion", 64))
    risks = [decision.risk for decision in decisions(served, events(served, 60))]
    metrics.flush()

    def told(name: str, number: int) -> float | None:
        labels = {"domain": "payments", "version": tag.partition(":")[2], "bin": f"{number:02d}"}
        return REGISTRY.get_sample_value(name, labels)

    below = [sum(risk < edge for risk in risks) for edge in (0.2, 0.6)]
    assert [told("vigil_risks_total", i) for i in (1, 2, 3)] == [below[0], below[1] - below[0], 60 - below[1]]
    assert [told("vigil_risk_reference_share", i) for i in (1, 2, 3)] == [0.25, 0.5, 0.25]


def test_a_bad_event_fails_its_own_caller_and_counts_for_nothing(session: Session) -> None:
    served = engine(session)
    good = events(served, 2)
    bad = events(served, 1)[0]
    bad.event_id, bad.amount = "bad", -1.0

    async def main() -> list[Any]:
        parts = ([good[0]], [good[1], bad])
        return await asyncio.gather(*(submit(served, part) for part in parts), return_exceptions=True)

    first, second = asyncio.run(main())
    assert first[0].event_id == 0
    assert isinstance(second, InvalidEvent)
    assert str(second).startswith("[1].amount: got -1.0, wanted")
    counted = served.store.apply_events(events(served, 2))[1].tolist()
    assert counted == [3, 0]  # the first is a repeat, the second was never counted


def test_an_event_too_far_in_the_future_is_refused(session: Session) -> None:
    served = engine(session)
    ahead = Settings().max_future_s * 1000
    assert decisions(served, events(served, 1, ts=NOW_MS + ahead))
    with pytest.raises(InvalidEvent, match=r"ts: got \d+ \(2018-10-01T12:00:00Z\), wanted epoch milliseconds up to"):
        decisions(served, events(served, 1, ts=NOW_MS + ahead + 1))


@pytest.mark.parametrize(
    ("ts", "read", "cause"),
    [
        (0, "1970-01-01T00:00:00Z", ""),
        (-1, "1969-12-31T23:59:59Z", ""),
        (NOW_MS // 1000, "1970-01-18T19:18:28Z", "seconds, not milliseconds?"),
        (NOW_MS * 1000, "no date", "microseconds, not milliseconds?"),
        (946_684_799_999, "1999-12-31T23:59:59Z", ""),
    ],
)
def test_a_time_that_cannot_be_meant_is_read_back(session: Session, ts: int, read: str, cause: str) -> None:
    served = engine(session)

    async def main() -> None:
        for parts in (1, 3, 300):
            await submit(served, [*events(served, parts - 1), events(served, 1, ts=ts, event_id="bad")[0]])

    with pytest.raises(InvalidEvent) as refused:
        asyncio.run(main())
    assert f"got {ts} ({read})" in str(refused.value) or (read == "no date" and f"got {ts}" in str(refused.value))
    assert cause in str(refused.value)


def test_an_event_of_a_call_may_be_as_far_behind_the_newest_as_the_grace(session: Session) -> None:
    served, other = engine(session), engine(session, max_past_s=7 * 86_400)
    for each, days in ((served, 1), (other, 7)):
        decisions(each, events(each, 1, ts=NOW_MS))
        decisions(each, events(each, 1, event_id="just", ts=NOW_MS - days * 86_400_000))
        with pytest.raises(InvalidEvent, match=r"VIGIL_MAX_PAST_S before the newest event, of 2018-09-30T12:00:00Z"):
            called(each, events(each, 1, event_id="late", ts=NOW_MS - days * 86_400_000 - 1))
        assert called(each, events(each, 1, event_id="in time", ts=NOW_MS - days * 86_400_000))[0].tier == "full"


def test_what_has_counted_is_answered_again_however_late_it_comes(session: Session) -> None:
    served = engine(session)
    first = decisions(served, events(served, 300))
    served._clock_ms = lambda: NOW_MS + 5 * 86_400_000
    newest = events(served, 1, event_id="newest", ts=NOW_MS + 3 * 86_400_000)
    served.decide(newest, served._clock_ms())
    other = events(served, 1, amount=90_000.0)

    async def main() -> list[Any]:
        parts = (events(served, 1), events(served, 40), events(served, 300), other, events(served, 1, event_id="new"))
        return await asyncio.gather(*(submit(served, part) for part in parts), return_exceptions=True)

    one, some, many, changed, new = asyncio.run(main())
    assert (one, some, many) == (first[:1], first[:40], first)
    assert isinstance(changed, Conflict)
    assert "VIGIL_MAX_PAST_S" in str(new)
    made = [*events(served, 2), events(served, 1, event_id="new")[0]]
    outcome = Scorer(served).score([msgspec.json.encode(each) for each in made], made, served._clock_ms())
    assert [msgspec.json.decode(each)["tier"] for each in outcome.records] == ["full", "full", "full"]


def test_nobody_is_locked_out_by_an_event_ahead_of_the_clock(session: Session) -> None:
    served = engine(session)
    called(served, events(served, 1, ts=NOW_MS + 86_400_000))
    assert called(served, events(served, 1, event_id="honest", ts=NOW_MS - 86_400_000))[0].tier == "full"


def test_a_domain_that_would_be_locked_out_is_not_served(tmp_path: Path) -> None:
    settings = Settings(max_future_s=86_401, state_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"VIGIL_MAX_FUTURE_S=86401: wanted at most the 86400 s of payments's grace"):
        Engine.open(PAYMENTS, settings, lambda: NOW_MS)


def test_an_id_that_comes_again_with_another_content_is_refused_to_its_caller_alone(session: Session) -> None:
    served = engine(session)
    [first] = decisions(served, events(served, 1))
    other = events(served, 1, amount=90_000.0)[0]

    async def main() -> list[Any]:
        parts = ([other], events(served, 1), [*events(served, 3, customer="C9")[1:], other], [events(served, 4)[3]])
        return await asyncio.gather(*(submit(served, part) for part in parts), return_exceptions=True)

    alone, again, several, good = asyncio.run(main())
    assert isinstance(alone, Conflict)
    assert re.match(
        r"event_id: got 0, which has come with another content: amount \(\w{16} then, \w{16} now\)", str(alone)
    )
    assert again == [first]
    assert isinstance(several, Conflict)
    assert str(several).startswith("[2].event_id: got 0")
    assert [decision.event_id for decision in good] == [3]

    async def large() -> None:
        many = events(served, 400, customer="C8")
        await submit(served, [*(replaced(each, f"l{i}") for i, each in enumerate(many)), other])

    with pytest.raises(Conflict, match=r"^\[400\].event_id: got 0"):
        asyncio.run(large())


def replaced(event: Any, event_id: str) -> Any:
    event.event_id = event_id
    return event


def test_conflicts_are_in_no_record_and_a_stream_goes_on(session: Session) -> None:
    served = engine(session)
    made = [*events(served, 3), events(served, 1, amount=90_000.0)[0], events(served, 5)[4]]
    outcome = Scorer(served).score([msgspec.json.encode(each) for each in made], made, NOW_MS)
    assert list(outcome.places) == [0, 1, 2, 4]
    assert [msgspec.json.decode(each)["event_id"] for each in outcome.records] == [0, 1, 2, 4]
    assert isinstance(outcome.refused[3], Conflict)


def test_a_stream_leaves_to_rules_what_comes_too_late_and_keeps_the_order(session: Session) -> None:
    served = engine(session)
    scorer = Scorer(served)
    made = events(served, 6)
    made[1].ts -= 3 * 86_400_000
    made[4].ts, made[4].amount = 0, 1.0
    made[5].ts -= 2 * 86_400_000
    values = [msgspec.json.encode(event) for event in made]
    SourceTime(served.max_past_ms).advance(made, times_of(made, NOW_MS), NOW_MS)
    assert [isinstance(event, Late) for event in made] == [False, True, False, False, True, True]
    outcome = scorer.score(values, made, NOW_MS)
    records = list(map(msgspec.json.decode, outcome.records))
    assert list(outcome.places) == [0, 1, 2, 3, 5]
    assert list(outcome.refused) == [4]
    assert [record["event_id"] for record in records] == [0, 1, 2, 3, 5]
    assert [record["tier"] for record in records] == ["full", "rules", "full", "full", "rules"]
    for record in records:
        late = record["tier"] == "rules"
        assert (record["degraded"], record["reasons"][-1:] == ["late"], "features" in record) == (late, late, not late)
    rerun = Rerun(PAYMENTS, 64)
    rerun.add([line for line, record in zip(outcome.records, records, strict=True) if record["tier"] == "rules"])
    assert (rerun.tally.same, rerun.tally.different) == (2, 0)


def test_without_a_model_rules_decide_and_rows_are_refused_with_the_reason() -> None:
    served = engine(None, "no model")
    assert decisions(served, events(served, 1))[0].tier == "rules"
    with pytest.raises(Unavailable, match="no model"):
        served.model.current()


def test_a_slow_model_gets_the_same_decisions_in_the_same_order_and_labels_come_between(session: Session) -> None:
    fast = engine(session)
    wanted = decisions(fast, events(fast, 60), with_features=True)
    session.row_s, before_s = 1.0, session.row_s
    slow = engine(session)
    session.row_s = before_s

    async def main() -> list[Any]:
        waiting = []
        for i, event in enumerate(events(slow, 60)):
            waiting.append(submit(slow, [event], True))
            if i % 7 == 0:
                await asyncio.sleep(0)
                slow.feedback([Feedback(event_id=i, label=0)])
        return await asyncio.gather(*waiting)

    assert [one for [one] in asyncio.run(main())] == wanted
    slow.close()


def test_an_event_past_its_deadline_is_refused_and_counts_for_nothing(session: Session) -> None:
    served = engine(session)

    async def main() -> None:
        deadline_s = time.perf_counter() + 0.2
        late = submit(served, events(served, 1), deadline_s=deadline_s)
        while time.perf_counter() < deadline_s:
            pass
        with pytest.raises(DeadlineExceeded):
            await late

    asyncio.run(main())
    assert served.store.apply_events(events(served, 1))[1].tolist() == [0]


def test_labels_are_told_what_became_of_them(session: Session) -> None:
    served = engine(session)
    decisions(served, events(served, 1))
    labels = [Feedback(event_id=0, label=1), Feedback(event_id=0, label=1), Feedback(event_id="later", label=0)]
    assert served.feedback(labels) == ["labelled", "label_known", "label_waits"]


def test_state_and_model_are_opened_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bento"))
    tag = tiny_model.store(tmp_path, PAYMENTS)
    settings = Settings(state_dir=tmp_path / "state")
    first = Engine.open(PAYMENTS, settings, lambda: NOW_MS)
    wanted = decisions(first, events(first, 1))
    first.close()
    again = Engine.open(PAYMENTS, settings, lambda: NOW_MS)
    assert decisions(again, events(again, 1)) == wanted
    assert wanted[0].model == tag
    again.close()


def test_what_is_already_late_is_refused_and_counts_for_nothing(session: Session) -> None:
    served = engine(session)
    rows = np.zeros((1, len(PAYMENTS.features)), np.float32)

    async def late() -> None:
        with pytest.raises(DeadlineExceeded, match="deadline passed"):
            submit(served, events(served, 1), deadline_s=perf_counter())
        with pytest.raises(DeadlineExceeded):
            infer(served, rows, deadline_s=perf_counter())
        await infer(served, rows, deadline_s=perf_counter() + 60)

    asyncio.run(late())
    assert served.model.statistics["1"].inferences == 1
    assert served.store.apply_events(events(served, 1))[1].tolist() == [0]


def test_rows_that_wait_are_answered_by_the_model_they_were_meant_for(session: Session) -> None:
    served = engine(session)
    rows = np.ones((3, len(PAYMENTS.features)), np.float32)

    async def swapped() -> Any:
        waiting = infer(served, rows)
        await served.model.unload()
        with pytest.raises(Unavailable, match="'payments' was unloaded"):
            infer(served, rows)
        return await waiting

    assert (asyncio.run(swapped()) == session.run(rows)).all()


def test_a_load_takes_the_champion_and_a_refused_one_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bento"))
    served = engine(None, "no model")
    tag = tiny_model.store(tmp_path, PAYMENTS)
    assert asyncio.run(served.model.load()).tag == tag
    assert (served.model.current().tag, served.model.problem) == (tag, "")

    champion = tiny_model.store(tmp_path, PAYMENTS, seed=1)
    path = model_store.resolve("payments").onnx_path
    original = path.read_bytes()
    path.write_bytes(original + b"\0")
    with pytest.raises(ModelRefused, match="has the digest"):
        asyncio.run(served.model.load())
    assert (served.model.current().tag, served.model.problem) == (tag, "")

    path.write_bytes(original)
    asyncio.run(served.model.load())
    assert served.model.current().tag == champion
    assert stored_versions(PAYMENTS) == sorted([tag.split(":")[1], champion.split(":")[1]])
