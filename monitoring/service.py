"""The service: is it well, first; then load, time, and what becomes of events."""

from __future__ import annotations

from monitoring.board import Board
from monitoring.panels import GREEN, RED, YELLOW, heatmap, row, series, stat, table

OF = 'job=~"$job"'
CALLS = f'{OF}, route=~".*/(score|feedback|infer)|Score.*|Feedback|Model(Stream)?Infer"'
SECONDS = f"sum by (le) (rate(vigil_request_seconds_bucket{{{CALLS}}}[$__rate_interval]))"
OF_ALERTS = ("Time", "Value", "__name__", "alertstate", "instance", "namespace")


def service() -> Board:
    """The dashboard of the service."""
    board = Board("service", "Is it well, and if not, where to look.", "vigil_requests_total")
    _well(board)
    _load(board)
    _time(board)
    _events(board)
    _access(board)
    return board


def _well(board: Board) -> None:
    board.add(
        4,
        4,
        stat(
            "Workers ready",
            "Of those there should be.",
            f"sum(vigil_ready{{{OF}}}) / sum(vigil_workers{{{OF}}})",
            "percentunit",
            ((0, RED), (0.5, YELLOW), (1, GREEN)),
            digits=0,
        ),
        stat("Requests", "Answered a second.", f"sum(vigil:requests:rate5m{{{OF}}})", "reqps"),
        stat(
            "Failed",
            "Through the server's fault; 0.1% may, over 30 days.",
            f"max(vigil:request_errors:ratio_rate5m{{{OF}}})",
            "percentunit",
            ((0.001, YELLOW), (0.01, RED)),
            digits=2,
        ),
        stat(
            "p99",
            "99% of the calls took less, in five minutes; wanted: 50 ms.",
            f"max(vigil:request_seconds:p99_5m{{{OF}}})",
            "s",
            ((0.025, YELLOW), (0.05, RED)),
        ),
        stat(
            "Decided by rules",
            "Degraded: without the model, or without features.",
            f"max(vigil:decisions_by_rules:ratio_rate5m{{{OF}}})",
            "percentunit",
            ((0.001, YELLOW), (0.01, RED)),
            digits=2,
        ),
        stat(
            "Alerts",
            "That fire now, of all of Vigil.",
            'count(ALERTS{alertname=~"Vigil.*", alertstate="firing"}) or vector(0)',
            "none",
            ((1, RED),),
            digits=0,
        ),
    )
    board.add(
        8,
        8,
        series(
            "Requests by status",
            "HTTP codes and gRPC names.",
            [(f"sum by (status) (rate(vigil_requests_total{{{OF}}}[$__rate_interval]))", "{{status}}")],
            "reqps",
            stacked=True,
        ),
        series(
            "Latency",
            "From the whole request to the answer, of all calls for scores, risks and labels.",
            [(f"histogram_quantile({q}, {SECONDS})", name) for q, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))],
            "s",
            ((0.05, RED),),
        ),
        table(
            "What is wrong now",
            "Alerts that fire.",
            'ALERTS{alertname=~"Vigil.*", alertstate="firing"}',
            OF_ALERTS,
            "all is well",
        ),
    )
    board.add(
        12,
        7,
        series(
            "Error budget: how fast it is spent",
            "1: it lasts for just the 30 days. A page at 14.4 for an hour, or 6 for six.",
            [(f"vigil:request_errors:ratio_rate{w}{{{OF}}} / 0.001", f"{{{{job}}}} {w}") for w in ("1h", "6h", "3d")],
            "none",
            ((1, YELLOW), (14.4, RED)),
        ),
        series(
            "Latency budget: how fast it is spent",
            "The same of calls that take more than 50 ms, of which 1% may.",
            [(f"vigil:request_slow:ratio_rate{w}{{{OF}}} / 0.01", f"{{{{job}}}} {w}") for w in ("1h", "6h", "3d")],
            "none",
            ((1, YELLOW), (14.4, RED)),
        ),
    )


def _load(board: Board) -> None:
    board.begin(row("Load"))
    board.add(
        8,
        7,
        series(
            "Processor time of a worker",
            "Of the one core it has.",
            [(f"vigil:worker_cpu:ratio_rate5m{{{OF}}}", "{{job}}")],
            "percentunit",
            ((0.85, RED),),
        ),
        series(
            "In flight",
            "Requests not yet answered.",
            [(f"sum by (transport) (vigil_requests_in_flight{{{OF}}})", "{{transport}}")],
            "short",
        ),
        series(
            "Refused for want of room",
            "429 and RESOURCE_EXHAUSTED, a second.",
            [
                (
                    f"sum by (domain, what) (rate(vigil_overloaded_total{{{OF}}}[$__rate_interval]))",
                    "{{domain}} {{what}}",
                )
            ],
            "reqps",
        ),
        series(
            "Requests by route",
            "A second.",
            [
                (
                    f"sum by (transport, route) (rate(vigil_requests_total{{{OF}}}[$__rate_interval]))",
                    "{{transport}} {{route}}",
                )
            ],
            "reqps",
        ),
        series(
            "Workers",
            "Ready, and wanted.",
            [(f"sum(vigil_ready{{{OF}}})", "ready"), (f"sum(vigil_workers{{{OF}}})", "wanted")],
            "short",
        ),
        series(
            "Workers that died and were started again",
            "In five minutes.",
            [(f"sum by (job, instance) (increase(vigil_worker_starts_total{{{OF}}}[5m]))", "{{job}} {{instance}}")],
            "short",
        ),
    )


def _time(board: Board) -> None:
    board.begin(row("Time"))
    stages = "sum by (domain, stage) (rate(vigil_stage_seconds_{}{{{}}}[$__rate_interval]))"
    board.add(
        8,
        8,
        heatmap("Latency, all of it", "How many calls took how long.", SECONDS, "s"),
        series(
            "A batch in features and model",
            "On average.",
            [(f"{stages.format('sum', OF)} / {stages.format('count', OF)}", "{{domain}} {{stage}}")],
            "s",
        ),
        series(
            "Wait in the queue",
            "Rows that wait by the rows that go through, over five minutes.",
            [(f"vigil:queue_seconds:5m{{{OF}}}", "{{job}} {{domain}} {{what}}")],
            "s",
            ((0.01, RED),),
        ),
        series(
            "Rows of a batch",
            "On average.",
            [
                (
                    f"sum by (domain, what) (rate(vigil_batch_rows_sum{{{OF}}}[$__rate_interval]))"
                    f" / sum by (domain, what) (rate(vigil_batch_rows_count{{{OF}}}[$__rate_interval]))",
                    "{{domain}} {{what}}",
                )
            ],
            "short",
        ),
        series(
            "Rows",
            "Scored a second.",
            [(f"sum by (domain, what) (rate(vigil_batch_rows_sum{{{OF}}}[$__rate_interval]))", "{{domain}} {{what}}")],
            "short",
        ),
        series(
            "Rows waiting",
            "At the moment of the scrape.",
            [(f"sum by (domain, what) (vigil_queue_rows{{{OF}}})", "{{domain}} {{what}}")],
            "short",
        ),
    )


def _events(board: Board) -> None:
    board.begin(row("Events"))
    board.add(
        8,
        7,
        series(
            "Decisions by action",
            "A second.",
            [
                (
                    f"sum by (domain, action) (rate(vigil_decisions_total{{{OF}}}[$__rate_interval]))",
                    "{{domain}} {{action}}",
                )
            ],
            "short",
            stacked=True,
        ),
        series(
            "Events by what became of them",
            "In the feature state, a second; state_away, too_old, conflict: not counted.",
            [
                (
                    f"sum by (domain, status) (rate(vigil_events_total{{{OF}}}[$__rate_interval]))",
                    "{{domain}} {{status}}",
                )
            ],
            "short",
        ),
        series(
            "Feature state away",
            "Workers it does not answer.",
            [(f"sum by (job, domain) (vigil_state_away{{{OF}}})", "{{job}} {{domain}}")],
            "short",
            ((1, RED),),
        ),
    )


def _access(board: Board) -> None:
    board.begin(row("Access"))
    board.add(
        8,
        7,
        series(
            "Calls over their limit",
            "Refused a second, by what the caller is known by.",
            [(f"sum by (caller) (rate(vigil_rate_limited_total{{{OF}}}[$__rate_interval]))", "{{caller}}")],
            "short",
        ),
        series(
            "Workers that limit rates alone",
            "As Redis is away, each gives its share.",
            [(f"sum by (job) (vigil_rate_limits_alone{{{OF}}})", "{{job}}")],
            "short",
            ((1, RED),),
        ),
        series(
            "Bytes that wait",
            "Bodies that came and answers that nobody took, over HTTP.",
            [(f"sum by (job) (vigil_buffered_bytes{{{OF}}})", "{{job}}")],
            "bytes",
        ),
        series(
            "Audit entries by what became of them",
            "A second; lost: the disk refused them or was behind.",
            [(f"sum by (outcome) (rate(vigil_audit_total{{{OF}}}[$__rate_interval]))", "{{outcome}}")],
            "short",
        ),
    )
