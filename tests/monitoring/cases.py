"""What must wake somebody, and what looks like it and must not: series as `promtool test rules` takes them."""

from __future__ import annotations

from dataclasses import dataclass

Series = dict[str, str]

SCORE = 'transport="http",route="/v1/{domain}/score"'


@dataclass(frozen=True)
class Case:
    """One alert of one severity.

    Args:
        alert: its name.
        severity: "page" or "ticket".
        fires: when it fires.
        quiet: when it does not.
        at: when is looked, from the first sample on.
        interval: between samples.
    """

    alert: str
    severity: str
    fires: Series
    quiet: Series
    at: str
    interval: str = "1m"


def requests(good: str, bad: str, status: str = "503") -> Series:
    return {
        f'vigil_requests_total{{{SCORE},status="200"}}': good,
        f'vigil_requests_total{{{SCORE},status="{status}"}}': bad,
    }


def fast_and_all(fast: str, every: str) -> Series:
    return {
        f'vigil_request_seconds_bucket{{{SCORE},le="0.05"}}': fast,
        f"vigil_request_seconds_count{{{SCORE}}}": every,
    }


def decisions(full: str, rules: str) -> Series:
    return {
        'vigil_decisions_total{domain="payments",action="approve",tier="full"}': full,
        'vigil_decisions_total{domain="payments",action="approve",tier="rules"}': rules,
    }


def stream(lag: str, decided: str, dead: str = "0x30") -> Series:
    return {
        'vigil_stream_lag{topic="e",partition="0"}': lag,
        'vigil_stream_records_total{outcome="decision"}': decided,
        'vigil_stream_records_total{outcome="dead letter"}': dead,
    }


def risks(low: str, high: str) -> Series:
    at = 'domain="payments",version="1"'
    return {
        f'vigil_risks_total{{{at},bin="01"}}': low,
        f'vigil_risks_total{{{at},bin="02"}}': high,
        f'vigil_risk_reference_share{{{at},bin="01"}}': "0.9x60",
        f'vigil_risk_reference_share{{{at},bin="02"}}': "0.1x60",
    }


def model(created: str, answers: str) -> Series:
    at = 'domain="payments",version="1"'
    return {
        f"vigil_model_created_timestamp_seconds{{{at}}}": created,
        f'vigil_model_info{{{at},digest="d"}}': answers,
    }


def commits(below_1_s: str, every: str) -> Series:
    return {
        'vigil_stream_commit_seconds_bucket{le="1.0"}': below_1_s,
        'vigil_stream_commit_seconds_bucket{le="5.0"}': every,
        'vigil_stream_commit_seconds_bucket{le="+Inf"}': every,
    }


def labels_and_events(labels: str, events: str) -> Series:
    return {
        'vigil_labels_total{domain="payments",status="labelled"}': labels,
        'vigil_events_total{domain="payments",status="new"}': events,
    }


CASES = (
    Case("VigilDown", "page", {"vigil_ready": "1x2 0x10"}, {"vigil_ready": "1x2 0 1x10"}, "8m"),
    Case("VigilDown", "page", {"up": "0x10"}, {"up": "0x10", "vigil_ready": "1x10", "up{x='y'}": "1x10"}, "8m"),
    Case("VigilDown", "page", {"other": "1x10"}, {"vigil_ready": "2x10"}, "8m"),
    # 2% fail since an hour; 10% failed, but it has been over for half an hour.
    Case("VigilErrorBudgetBurn", "page", requests("0+98x70", "0+2x70"), requests("0+90x70", "0+10x30 300x40"), "65m"),
    # A caller's own faults and refusals for want of room spend no budget.
    Case(
        "VigilErrorBudgetBurn",
        "page",
        requests("0+98x70", "0+2x70", "INTERNAL"),
        requests("0+9x70", "0+1x70", "429"),
        "65m",
    ),
    Case(
        "VigilErrorBudgetBurn",
        "ticket",
        requests("0+995x50", "0+5x50"),
        requests("0+9995x50", "0+5x50"),
        "1d",
        "30m",
    ),
    Case(
        "VigilLatencyBudgetBurn", "page", fast_and_all("0+8x70", "0+10x70"), fast_and_all("0+99x70", "0+100x70"), "65m"
    ),
    Case(
        "VigilLatencyBudgetBurn",
        "ticket",
        fast_and_all("0+95x50", "0+100x50"),
        fast_and_all("0+995x50", "0+1000x50"),
        "1d",
        "30m",
    ),
    Case(
        "VigilWorkersMissing",
        "ticket",
        {"vigil_ready": "2x2 1x10", "vigil_workers": "2x12"},
        {"vigil_ready": "2x2 1x2 2x8", "vigil_workers": "2x12"},
        "10m",
    ),
    # An instance that cannot be scraped says nothing of its workers.
    Case(
        "VigilWorkersMissing",
        "ticket",
        {"vigil_ready": "1x12", "vigil_workers": "1x12", "up": "1x12", 'up{instance="b"}': "1x2 0x10"},
        {"vigil_ready": "1x12", "vigil_workers": "1x12", "up": "1x12", 'up{job="other"}': "0x12"},
        "10m",
    ),
    # Three deaths in half an hour; another pod's first start is none.
    Case(
        "VigilWorkersRestarting",
        "ticket",
        {"vigil_worker_starts_total": "1x5 2x5 3x5 4x20"},
        {"vigil_worker_starts_total": "1x5 2x25", 'vigil_worker_starts_total{instance="b"}': "_x10 1x20"},
        "25m",
    ),
    Case(
        "VigilSaturated",
        "ticket",
        {"vigil_cpu_seconds_total": "0+110x20", "vigil_workers": "2x20"},
        {"vigil_cpu_seconds_total": "0+80x20", "vigil_workers": "2x20"},
        "18m",
    ),
    # Stream workers may take what they get.
    Case(
        "VigilSaturated",
        "ticket",
        {"vigil_cpu_seconds_total": "0+58x20", "vigil_workers": "1x20"},
        {"vigil_cpu_seconds_total": "0+110x20", "vigil_workers": "1x20"} | stream("5x20", "0+60x20"),
        "18m",
    ),
    Case(
        "VigilQueueLong",
        "ticket",
        {'vigil_queue_rows{domain="payments",what="events"}': "20x20"}
        | {'vigil_batch_rows_sum{domain="payments",what="events"}': "0+60000x20"},
        {'vigil_queue_rows{domain="payments",what="events"}': "20x20"}
        | {'vigil_batch_rows_sum{domain="payments",what="events"}': "0+600000x20"},
        "15m",
    ),
    Case(
        "VigilOverloaded",
        "page",
        requests("0+970x20", "0+30x20", "429") | {'vigil_overloaded_total{domain="payments",what="events"}': "0+30x20"},
        requests("0+995x20", "0+5x20", "429") | {'vigil_overloaded_total{domain="payments",what="events"}': "0+5x20"},
        "12m",
    ),
    Case(
        "VigilStateAway",
        "page",
        {'vigil_state_away{domain="payments"}': "0x2 1x10"},
        {'vigil_state_away{domain="payments"}': "0x2 1 0x10"},
        "5m",
    ),
    Case(
        "VigilConflicts",
        "ticket",
        {'vigil_events_total{domain="payments",status="conflict"}': "0x5 0+1x10"},
        {'vigil_events_total{domain="payments",status="repeat"}': "0x5 0+1x10"},
        "10m",
    ),
    *(
        Case(
            "VigilRecordsDropped",
            "ticket",
            {f'vigil_records_total{{outcome="{outcome}"}}': "0x5 0+10x10"},
            {
                f'vigil_records_total{{outcome="{outcome}"}}': "7x15",
                'vigil_records_total{outcome="written"}': "0+10x15",
            },
            "10m",
        )
        for outcome in ("failed", "too_slow")
    ),
    Case("VigilRulesTier", "page", decisions("0+90x20", "0+10x20"), decisions("0+999x20", "0+1x20"), "12m"),
    # Twice as many high risks are calm, five times as many are not; nor is one of a few.
    Case("VigilRiskDrift", "ticket", risks("0+500x60", "0+500x60"), risks("0+800x60", "0+200x60"), "28h", "30m"),
    Case("VigilRiskDrift", "ticket", risks("0+500x60", "0+500x60"), risks("0+1x60", "0+10x60"), "28h", "30m"),
    # The clock of these tests begins in 1970. One that no longer answers may be as old as it likes.
    Case("VigilModelOld", "ticket", model("-2600000x60", "1x60"), model("-2600000x60", "0x60"), "4h", "10m"),
    Case("VigilModelOld", "ticket", model("-2600000x60", "1x60"), model("-2500000x60", "1x60"), "4h", "10m"),
    Case(
        "VigilLabelsMissing",
        "ticket",
        labels_and_events("7x60", "0+100x60"),
        labels_and_events("0+1x60", "0+100x60"),
        "28h",
        "30m",
    ),
    # A service that is not a day old has not missed a day of labels.
    Case(
        "VigilLabelsMissing",
        "ticket",
        labels_and_events("0x60", "0+100x60"),
        labels_and_events("_x48 0x12", "_x48 0+500x12"),
        "28h",
        "30m",
    ),
    Case("VigilStreamBehind", "page", stream("90000x30", "0+60000x30"), stream("900x30", "0+60x30"), "20m"),
    Case("VigilStreamStuck", "page", stream("5x30", "0+60x5 300x25"), stream("5x30", "0+60x30"), "20m"),
    # Labels that come do not hide events that wait.
    Case(
        "VigilStreamStuck",
        "page",
        stream("5x30", "300x30") | {'vigil_stream_records_total{outcome="label"}': "0+60x30"},
        stream("0x30", "300x30"),
        "20m",
    ),
    Case("VigilDeadLetters", "ticket", stream("0x30", "0+60x30", "0x5 1x25"), stream("0x30", "0+60x30"), "10m"),
    Case(
        "VigilDeadLetters",
        "page",
        stream("0x30", "0+90x30", "0+10x30"),
        stream("0x30", "0+99x30", "0+1x30"),
        "15m",
    ),
    Case("VigilCommitSlow", "ticket", commits("0+90x30", "0+100x30"), commits("0+1000x30", "0+1001x30"), "20m"),
    Case(
        "VigilTransactionsAborted",
        "ticket",
        {"vigil_stream_aborts_total": "0x5 1x3 2x3 3x20"},
        {"vigil_stream_aborts_total": "0x5 1x20"},
        "15m",
    ),
)
