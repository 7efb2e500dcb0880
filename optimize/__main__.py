"""`python -m optimize`: a training run in, a small verified ONNX model in the store out."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from optimize import runs
from optimize.choice import Budget
from vigil import domains, settings
from vigil.errors import VigilError
from vigil.progress import Steps

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    domain: Annotated[str, typer.Option(help="Whose model: a shipped domain or an importable module.")] = "payments",
    run: Annotated[
        Path | None, typer.Option(help="Folder of the training run [default: VIGIL_STATE_DIR/training/DOMAIN].")
    ] = None,
    budget_ap: Annotated[float, typer.Option(help="Average precision that may be lost, against Keras.")] = 0.002,
    budget_risk: Annotated[float, typer.Option(help="How far any risk may be from Keras's.")] = 1e-3,
    sparsity: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of weights the pruned candidate does without.")
    ] = 0.5,
    alias: Annotated[str, typer.Option(help="Pointed at the stored model.")] = "champion",
    seed: Annotated[int, typer.Option(min=0, help="Decides the fine-tuning.")] = 0,
) -> None:
    """Measures small forms of a trained model and stores the fastest that keeps its quality."""
    console = Console()
    try:
        budget = Budget(budget_ap, budget_risk)
        chosen = domains.load(domain)
        folder = run or settings.load().state_dir / "training" / chosen.name
        found = runs.read(folder, chosen)
        with Steps(console) as steps:
            with steps.step("load Keras"):
                _quieten()
                from optimize import pipeline, table
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            outcome = pipeline.optimize(found, chosen, budget, sparsity, alias, seed, now, steps)
    except VigilError as failure:
        Console(stderr=True).print("[bold red]error[/]", escape(str(failure)), highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    console.print(table.rich_table(outcome.measured, outcome.failures, budget, outcome.winner))
    console.print(f"stored {outcome.tag} ({outcome.winner.name}); {chosen.name}@{alias} is this model", soft_wrap=True)


def _quieten() -> None:
    """Keeps notes of TensorFlow and of the quantizer off the terminal; must run before they are imported."""
    for key, value in (("TF_CPP_MIN_LOG_LEVEL", "3"), ("TF_ENABLE_ONEDNN_OPTS", "0"), ("KERAS_BACKEND", "tensorflow")):
        os.environ.setdefault(key, value)
    logging.getLogger().setLevel(logging.ERROR)


if __name__ == "__main__":
    app(prog_name="python -m optimize")
