"""The table of candidates, for the terminal and for `optimization.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnxruntime as ort
from rich import box
from rich.table import Table

from optimize.candidates import MEANINGS, Measured
from optimize.choice import Budget
from optimize.speed import ROUNDS
from vigil import host

_HEADINGS = (
    "candidate",
    "max risk diff",
    "AP lost valid",
    "AP lost test",
    "KB",
    "KB zipped",
    "us/row @1",
    "@32",
    "@256",
    "same in any batch",
    "verdict",
)
_ON_TERMINAL = ("candidate", "risk diff", "AP valid", "AP test", "KB", "us @1", "@32", "@256", "verdict")


def rich_table(candidates: Sequence[Measured], failures: Mapping[str, str], budget: Budget, winner: Measured) -> Table:
    """The table in 80 columns, the winner in green."""
    title = "against Keras: largest risk difference, average precision lost, size, microseconds a row in batches"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    for heading in _ON_TERMINAL:
        table.add_column(heading, justify="left" if heading in ("candidate", "verdict") else "right")
    for c in candidates:
        cells = _cells(c)
        verdict = "wins" if c is winner else budget.broken(c) or "slower"
        style = "bold green" if c is winner else "dim" if budget.broken(c) else None
        table.add_row(*cells[:5], *cells[6:9], verdict, style=style)
    for name, reason in failures.items():
        table.add_row(name, *[""] * (len(_ON_TERMINAL) - 2), reason, style="dim")
    return table


def markdown(
    candidates: Sequence[Measured],
    failures: Mapping[str, str],
    budget: Budget,
    winner: Measured,
    sparsity: float,
    created: str,
) -> str:
    """`optimization.md`: the table, what its columns and rows mean, and on what it was measured."""
    lines = [
        "# How this model was made small",
        "",
        f"**{winner.name}** is served: the fastest of those that lose less than {budget.ap:g} average precision on "
        f"validation, keep every risk within {budget.risk:g} of Keras and give a row the same risk in any batch.",
        "",
        "| " + " | ".join(_HEADINGS) + " |",
        "|" + "---|" * len(_HEADINGS),
        *("| " + " | ".join(cells) + " |" for cells in _rows(candidates, failures, budget, winner)),
        "",
        *(f"- {name}: {meaning}" for name, meaning in MEANINGS.items()),
        "",
        f"Pruned: {sparsity:.0%} of the weights of every layer but the last are zero: fewer bytes in a zipped file, "
        "no less time.",
        "",
        "Same in any batch: rows scored alone and in batches of 2, 7, 32 and 256 get the same risk to the last bit; "
        '"padded": only where batches are filled up to multiples of 16 rows, as the service does.',
        "",
        f"Microseconds: median of {ROUNDS} rounds in which all took turns, ONNX Runtime {ort.__version__}, one thread, "
        f"{host.processor()}, {created}.",
    ]
    return "\n".join(lines) + "\n"


def _rows(
    candidates: Sequence[Measured], failures: Mapping[str, str], budget: Budget, winner: Measured
) -> list[list[str]]:
    rows = [[*_cells(c), "**wins**" if c is winner else budget.broken(c) or "slower"] for c in candidates]
    return rows + [[name, *[""] * (len(_HEADINGS) - 2), reason] for name, reason in failures.items()]


def _cells(c: Measured) -> list[str]:
    return [
        c.name,
        f"{c.difference:.1e}",
        f"{c.ap_lost_valid:+.4f}",
        f"{c.ap_lost_test:+.4f}",
        f"{c.size / 1024:.0f}",
        f"{c.size_zipped / 1024:.0f}",
        f"{c.us_1:.2f}",
        f"{c.us_32:.2f}",
        f"{c.us_256:.2f}",
        _steadiness(c),
    ]


def _steadiness(candidate: Measured) -> str:
    if candidate.dependence == 0:
        return "yes"
    return "padded" if candidate.dependence_padded == 0 else f"no, by {candidate.dependence_padded:.0e}"
