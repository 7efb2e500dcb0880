"""The model: which one answers, does it meet what it was trained on, what does it decide, does it hear the truth."""

from __future__ import annotations

from monitoring.board import Board
from monitoring.panels import RED, YELLOW, bars, row, series, stat, table

OF = 'job=~"$job"'
DECIDED = f"(rate(vigil_decisions_total{{{OF}}}[$__rate_interval]))"
OF_MODELS = ("Time", "__name__")


def model() -> Board:
    """The dashboard of the model."""
    board = Board("model", "Does the model still fit the events.", "vigil_model_info")
    _well(board)
    board.begin(row("Decisions"))
    board.add(
        8,
        8,
        series(
            "Actions",
            "Their shares of the decisions.",
            [
                (
                    f"sum by (domain, action) {DECIDED} / ignoring(action) group_left () sum by (domain) {DECIDED}",
                    "{{domain}} {{action}}",
                )
            ],
            "percentunit",
            stacked=True,
        ),
        series(
            "Who decides",
            "full: the model; rules: what is left without one.",
            [(f"sum by (domain, tier) {DECIDED}", "{{domain}} {{tier}}")],
            "short",
            stacked=True,
        ),
        series(
            "Labels by what became of them",
            "label_waits: its event is not known yet.",
            [
                (
                    f"sum by (domain, status) (rate(vigil_labels_total{{{OF}}}[$__rate_interval]))",
                    "{{domain}} {{status}}",
                )
            ],
            "short",
        ),
        series(
            "Model time of a row",
            "On average.",
            [
                (
                    f'sum by (domain) (rate(vigil_stage_seconds_sum{{{OF}, stage="model"}}[$__rate_interval]))'
                    f' / sum by (domain) (rate(vigil_batch_rows_sum{{{OF}, what="events"}}[$__rate_interval]))',
                    "{{domain}}",
                )
            ],
            "s",
        ),
    )
    return board


def _well(board: Board) -> None:
    board.add(
        4,
        4,
        stat(
            "Stability of risks",
            "Index of the last day against training: below 0.1 calm, above 0.25 another population.",
            f"max(vigil:risk_stability:index1d{{{OF}}})",
            "none",
            ((0.1, YELLOW), (0.25, RED)),
            digits=2,
        ),
        stat(
            "Age of the model",
            "Since it was stored.",
            f"max(vigil:model_age_seconds{{{OF}}})",
            "s",
            ((14 * 86400, YELLOW), (30 * 86400, RED)),
        ),
        stat(
            "Decided by rules",
            "Without the model.",
            f"max(vigil:decisions_by_rules:ratio_rate5m{{{OF}}})",
            "percentunit",
            ((0.001, YELLOW), (0.01, RED)),
            digits=2,
        ),
        stat("Decisions", "In the last day.", f"sum(increase(vigil_decisions_total{{{OF}}}[1d]))", "short"),
        stat("Labels", "In the last day.", f"sum(increase(vigil_labels_total{{{OF}}}[1d]))", "short"),
        stat(
            "Versions that answer",
            "More than one while another is rolled out.",
            f"count(count by (domain, version) (vigil_model_info{{{OF}}} == 1))",
            "none",
            digits=0,
        ),
    )
    board.add(
        8,
        9,
        bars(
            "Risks: now, by the bins of training",
            "Bin 01 holds the lowest risks. The last day beside the validation rows.",
            [
                (f"max by (bin) (vigil:risk_share:1d{{{OF}}})", "{{bin}} now"),
                (f"max by (bin) (vigil:risk_reference:share{{{OF}}})", "{{bin}} training"),
            ],
            "percentunit",
        ),
        series(
            "Stability of risks",
            "Index of the last day against training.",
            [(f"vigil:risk_stability:index1d{{{OF}}}", "{{job}} {{domain}}:{{version}}")],
            "none",
            ((0.1, YELLOW), (0.25, RED)),
        ),
        table(
            "Models that answer",
            "And on how many instances.",
            f"count by (job, domain, version, digest) (vigil_model_info{{{OF}}} == 1)",
            OF_MODELS,
            "no model: rules decide",
        ),
    )
