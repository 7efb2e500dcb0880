"""Stream workers: do they keep up, how late are decisions, what is put aside."""

from __future__ import annotations

from monitoring.board import Board
from monitoring.panels import GREEN, RED, YELLOW, Query, row, series, stat

OF = 'job=~"$job"'


def stream() -> Board:
    """The dashboard of stream workers."""
    board = Board("stream", "Do decisions keep up with events.", "vigil_stream_lag")
    _well(board)
    board.begin(row("Transactions"))
    board.add(
        8,
        7,
        series(
            "From the first record to the commit", "Of a transaction.", _quantiles("vigil_stream_commit_seconds"), "s"
        ),
        series(
            "Events of a transaction",
            "On average.",
            [
                (
                    f"sum by (job) (rate(vigil_stream_batch_rows_sum{{{OF}}}[$__rate_interval]))"
                    f" / sum by (job) (rate(vigil_stream_batch_rows_count{{{OF}}}[$__rate_interval]))",
                    "{{job}}",
                )
            ],
            "short",
        ),
        series(
            "Aborted",
            "Transactions in five minutes; their events are read again.",
            [(f"sum by (job) (increase(vigil_stream_aborts_total{{{OF}}}[5m]))", "{{job}}")],
            "short",
        ),
        series(
            "Processor time of a worker",
            "In cores.",
            [(f"vigil:worker_cpu:ratio_rate5m{{{OF}}}", "{{job}}")],
            "none",
        ),
        series(
            "Decided by rules",
            "Without the model.",
            [(f"vigil:decisions_by_rules:ratio_rate5m{{{OF}}}", "{{job}} {{domain}}")],
            "percentunit",
        ),
        series(
            "Feature state away",
            "Workers it does not answer.",
            [(f"sum by (job, domain) (vigil_state_away{{{OF}}})", "{{job}} {{domain}}")],
            "short",
        ),
    )
    return board


def _well(board: Board) -> None:
    board.add(
        4,
        4,
        stat(
            "Workers ready",
            "Of those that run.",
            f"sum(vigil_ready{{{OF}}}) / sum(vigil_workers{{{OF}}})",
            "percentunit",
            ((0, RED), (1, GREEN)),
            digits=0,
        ),
        stat(
            "Decisions", "Committed a second.", f'sum(vigil:stream_records:rate5m{{{OF}, outcome="decision"}})', "short"
        ),
        stat(
            "Behind",
            "How long what waits will take at the present pace.",
            f"max(vigil:stream_behind_seconds:5m{{{OF}}})",
            "s",
            ((10, YELLOW), (60, RED)),
        ),
        stat(
            "p99, produced to committed",
            "The oldest event of each transaction.",
            f"histogram_quantile(0.99, sum by (le) (rate(vigil_stream_seconds_bucket{{{OF}}}[5m])))",
            "s",
            ((1, YELLOW), (5, RED)),
        ),
        stat(
            "Dead letters",
            "In the last hour.",
            f'sum(increase(vigil_stream_records_total{{{OF}, outcome="dead letter"}}[1h]))',
            "short",
            ((1, YELLOW), (100, RED)),
            digits=0,
        ),
        stat(
            "Aborted",
            "Transactions in the last hour.",
            f"sum(increase(vigil_stream_aborts_total{{{OF}}}[1h]))",
            "short",
            ((1, YELLOW), (10, RED)),
            digits=0,
        ),
    )
    board.add(
        12,
        8,
        series(
            "Records by what became of them",
            "Committed a second.",
            [(f"sum by (outcome) (rate(vigil_stream_records_total{{{OF}}}[$__rate_interval]))", "{{outcome}}")],
            "short",
        ),
        series(
            "Records waiting",
            "Behind the end of each partition.",
            [(f"sum by (topic, partition) (vigil_stream_lag{{{OF}}})", "{{topic}}/{{partition}}")],
            "short",
            stacked=True,
        ),
        series(
            "From produced to committed",
            "The oldest event of each transaction.",
            _quantiles("vigil_stream_seconds"),
            "s",
        ),
        series(
            "Behind",
            "How long what waits will take at the present pace.",
            [(f"vigil:stream_behind_seconds:5m{{{OF}}}", "{{job}}")],
            "s",
            ((60, RED),),
        ),
    )


def _quantiles(histogram: str) -> list[Query]:
    buckets = f"sum by (le) (rate({histogram}_bucket{{{OF}}}[$__rate_interval]))"
    return [(f"histogram_quantile({q}, {buckets})", name) for q, name in ((0.5, "p50"), (0.99, "p99"))]
