"""The report's pictures: SVG text, drawn without any global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve

from training.metrics import Bin, Threshold

INK, GRID, MAIN, SECOND = "#1f2a37", "#e5e9f0", "#0f6fde", "#e8833a"
_OTHERS = ("#8a94a6", "#5cae7b", "#b07cc6", "#c9a227")
_STYLE: Any = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.hashsalt": "vigil",
}


def precision_recall(y: np.ndarray, risks: Mapping[str, np.ndarray]) -> str:
    """Precision over recall of several models, the first one drawn strongest."""
    with mpl.rc_context(_STYLE):
        figure, (axes,) = _figure(1)
        grid = np.linspace(0, 1, 301)
        for i, (name, risk) in enumerate(risks.items()):
            precision, recall, _ = precision_recall_curve(y, risk)
            line = np.interp(grid, recall[::-1], precision[::-1])
            axes.plot(grid, line, label=name, color=(MAIN, *_OTHERS)[i], linewidth=2.2 if i == 0 else 1.3)
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(loc="lower left")
        return _svg(figure)


def reliability(bins: Sequence[Bin]) -> str:
    """Share of bad events over mean risk, and how many events there are of each risk."""
    with mpl.rc_context(_STYLE):
        figure, (curve, counts) = _figure(2)
        curve.plot([0, 1], [0, 1], color=_OTHERS[0], linewidth=1, linestyle="--", label="perfect")
        curve.plot([b.risk for b in bins], [b.bad for b in bins], "o-", color=MAIN, linewidth=2, label="network")
        curve.set(xlabel="risk given", ylabel="share of bad events", xlim=(0, 1), ylim=(0, 1.02))
        curve.legend(loc="upper left")
        counts.bar(
            [(b.low + b.high) / 2 for b in bins], [b.events for b in bins], width=0.9 / 15, color=MAIN, alpha=0.8
        )
        counts.set(xlabel="risk given", ylabel="events (log scale)", yscale="log", xlim=(0, 1))
        return _svg(figure)


def learning(epochs: Sequence[Mapping[str, float]]) -> str:
    """Loss by epoch, on training rows (with dropout) and on validation."""
    with mpl.rc_context(_STYLE):
        figure, (axes,) = _figure(1)
        at = np.arange(1, len(epochs) + 1)
        axes.plot(at, [e["loss"] for e in epochs], "o-", color=_OTHERS[0], label="training (with dropout)")
        axes.plot(at, [e["val_loss"] for e in epochs], "o-", color=MAIN, linewidth=2, label="validation")
        axes.set(xlabel="epoch", ylabel="cross-entropy", xticks=at)
        axes.legend()
        return _svg(figure)


def importance(lost: Mapping[str, float]) -> str:
    """Average precision lost without each group of features."""
    with mpl.rc_context(_STYLE):
        figure, (axes,) = _figure(1)
        names = list(lost)[::-1]
        axes.barh(names, [lost[name] for name in names], color=MAIN, height=0.6)
        axes.set(xlabel="average precision lost when shuffled")
        axes.grid(axis="y", visible=False)
        return _svg(figure)


def money(table: Sequence[Threshold], unit: str) -> str:
    """What acting from each risk on leaves over, in money."""
    with mpl.rc_context(_STYLE):
        figure, (axes,) = _figure(1)
        at = [row.risk for row in table]
        axes.plot(at, [row.review_net for row in table], "o-", color=MAIN, linewidth=2, label="review from here")
        axes.plot(at, [row.block_net for row in table], "o-", color=SECOND, linewidth=2, label="block from here")
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set(xlabel="risk from which one acts (log scale)", ylabel=f"saved less cost, {unit}", xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.legend()
        return _svg(figure)


def _figure(columns: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.4 * columns + 1.2, 3.4), layout="constrained")
    return figure, [figure.add_subplot(1, columns, i + 1) for i in range(columns)]


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
