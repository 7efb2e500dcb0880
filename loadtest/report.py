"""The page of a load test: gates, times as callers and as the service saw them, and a picture of how they went."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from loadtest import page
from loadtest.ledger import Ledger
from loadtest.picture import INK, OTHERS, OURS, QUIET
from loadtest.scenario import Gate, Scenario
from loadtest.server_side import Histograms, Route, quantile_ms

STYLE = """body{font:15px system-ui,sans-serif;color:#1f2933;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .8rem;border-bottom:1px solid #d9e2ec;text-align:right}
td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}.bad{color:#b42318;font-weight:600}"""
HEADS = ("caller", "answered", "failed", "p50 ms", "p99 ms", "in Vigil: p50 ms", "p99 ms")


@dataclass(frozen=True)
class Story:
    """A load test that has ended.

    Args:
        began_s: epoch second of the start.
        until_s: seconds after it until which load was sent.
        routes: of each kind of caller.
        before, after: the service's own histograms after the warm-up and at the end.
    """

    scenario: Scenario
    ledger: Ledger
    began_s: float
    until_s: float
    routes: dict[str, Route]
    before: Histograms
    after: Histograms

    @property
    def gates(self) -> list[Gate]:
        """Every gate with what was got."""
        return self.scenario.judged(self.ledger, self.began_s, self.until_s)

    @property
    def rows(self) -> list[list[str]]:
        """A line a kind of caller, under HEADS."""
        return [self._row(kind) for kind in self.ledger.kinds]

    def _row(self, kind: str) -> list[str]:
        cell = self.ledger.between(*self.scenario.window(self.began_s, self.until_s), kind)
        ours = [cell.quantile_ms(share) for share in (0.5, 0.99)]
        theirs = [quantile_ms(self.before, self.after, self.routes[kind], share) for share in (0.5, 0.99)]
        times = ["" if math.isnan(ms) else f"{ms:,.2f}" for ms in (*ours, *theirs)]
        return [kind, f"{cell.good:,}", f"{cell.failed:,}", *times]

    @property
    def text(self) -> str:
        """For a terminal."""
        gates = [f"{'passed' if gate.passed else 'FAILED'}  {gate}" for gate in self.gates]
        return "\n".join([self.scenario.name, page.markdown(HEADS, self.rows), *gates])


def write(story: Story, path: Path) -> None:
    """Writes the page (HTML), which needs nothing else to be looked at."""
    gates = "".join(
        f"<tr><td>{gate.name}</td><td>{gate.got:.4g}</td><td>{gate.wanted:g}</td>"
        f"<td{'' if gate.passed else ' class=bad'}>{'passed' if gate.passed else 'failed'}</td></tr>"
        for gate in story.gates
    )
    body = (
        f"<h1>Load test: {html.escape(story.scenario.name)}</h1><p>{html.escape(page.commit())}, "
        f"{html.escape(page.hardware())}. Times of callers run from when a request "
        "was due, those in Vigil from the whole request to the answer: what lies between is network, waiting, and the "
        "load generator itself.</p>"
        f"<table><tr><th>gate</th><th>got</th><th>bound</th><th></th></tr>{gates}</table>"
        f"{table(HEADS, story.rows)}{picture(story)}"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<!doctype html><meta charset=utf-8><title>Load test</title><style>{STYLE}</style>{body}")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML."""
    lines = ["".join(f"<th>{html.escape(head)}</th>" for head in heads)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def picture(story: Story) -> str:
    """Rate and times by the second, as SVG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    seconds = range(max(1, math.ceil(story.until_s)))
    first = int(story.began_s)
    cells = [story.ledger.between(first + at, first + at + 1) for at in seconds]
    with plt.rc_context({"font.size": 10, "svg.fonttype": "none", "svg.hashsalt": "vigil", "text.color": INK}):
        figure, (rates, times) = plt.subplots(2, 1, figsize=(9, 5), sharex=True)
        due = [story.scenario.per_s(at) for at in seconds]
        rates.plot(seconds, due, color=OTHERS, label="due", drawstyle="steps-post")
        rates.plot(seconds, [cell.good for cell in cells], color=OURS, label="answered well")
        rates.plot(seconds, [cell.failed for cell in cells], color="#b42318", label="failed")
        rates.set_ylabel("requests a second")
        for share, colour in ((0.5, OURS), (0.99, QUIET)):
            times.plot(seconds, [cell.quantile_ms(share) for cell in cells], color=colour, label=f"p{share * 100:.0f}")
        times.set(ylabel="ms from when it was due", xlabel="s", yscale="log")
        times.yaxis.set_major_formatter("{x:g}")
        times.yaxis.set_minor_formatter("{x:g}")
        for ax in (rates, times):
            ax.legend(frameon=False)
            ax.spines[["top", "right"]].set_visible(False)
        drawn = StringIO()
        figure.tight_layout()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        plt.close(figure)
    return drawn.getvalue().partition("<svg")[1] + drawn.getvalue().partition("<svg")[2]
