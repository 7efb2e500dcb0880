"""The picture of the peers: a bar a server, as long as its rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from loadtest.measured import Line

OURS, OTHERS, INK, QUIET = "#0b6e4f", "#a9b8c4", "#1f2933", "#52606d"


def draw(lines: list[Line], path: Path) -> None:
    """Writes `path` (SVG): a panel for HTTP, one for gRPC, the fastest on top."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = {protocol: [each for each in lines if each.protocol == protocol] for protocol in ("HTTP", "gRPC")}
    panels = {protocol: found for protocol, found in panels.items() if found}
    heights = [len(found) + 1.2 for found in panels.values()]
    with plt.rc_context({"font.size": 10, "svg.fonttype": "none", "svg.hashsalt": "vigil"}):
        figure, axes = plt.subplots(
            len(panels), 1, figsize=(8.5, 0.42 * sum(heights) + 0.5), height_ratios=heights, squeeze=False
        )
        for ax, (protocol, found) in zip(axes[:, 0], panels.items(), strict=True):
            panel(ax, protocol, found)
        figure.tight_layout(h_pad=1.5)
        figure.savefig(path, facecolor="white", metadata={"Date": None})
        plt.close(figure)


def panel(ax: Axes, protocol: str, lines: list[Line]) -> None:
    """One way in: bars, their figures beside them."""
    rates = [each.requests_per_s for each in lines]
    colours = [OURS if each.name == "Vigil" else OTHERS for each in lines]
    bars = ax.barh([each.name for each in lines], rates, color=colours, height=0.66)
    for bar, each in zip(bars, lines, strict=True):
        note = f"{each.requests_per_s:,.0f}/s, p99 {each.p99_ms:,.1f} ms"
        middle = bar.get_y() + bar.get_height() / 2
        ax.text(each.requests_per_s + max(rates) * 0.01, middle, note, va="center", color=QUIET, fontsize=9)
    ax.set_title(f"{protocol}, one row a request: requests a second", loc="left", color=INK, fontsize=11, weight="bold")
    ax.invert_yaxis()
    ax.set_xlim(0, max(rates) * 1.32)
    ax.xaxis.set_visible(False)
    ax.tick_params(axis="y", length=0, colors=INK)
    for side in ax.spines.values():
        side.set_visible(False)
