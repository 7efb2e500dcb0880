"""`python -m training`: a history in, a trained model with its report out."""

from __future__ import annotations

import importlib
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from training import data
from vigil import domains, settings
from vigil.domains.simulation import HISTORY_DAYS
from vigil.errors import VigilError
from vigil.features import transfer
from vigil.features.history import History, parse_columns
from vigil.features.memory.store import MemoryStore
from vigil.progress import Steps

SEEDED = "the service starts with the state at the end of this history"
KEPT = "the service keeps the feature state it has (--replace-state starts it from this history)"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Protocol(StrEnum):
    """Fixed comparisons there are."""

    HANDBOOK = "handbook"


@app.command()
def main(
    domain: Annotated[str, typer.Option(help="Whose events: a shipped domain or an importable module.")] = "payments",
    data_file: Annotated[
        Path | None, typer.Option("--data", help="History to learn from (Parquet or CSV); simulated where not given.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="FIELD=COLUMN of the file, such as amount=TX_AMOUNT; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results [default: VIGIL_STATE_DIR/training/DOMAIN].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides simulation, samples and weights.")] = 0,
    protocol: Annotated[
        Protocol | None, typer.Option(help="Instead of a model for use: the published comparison on its own data.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Networks a fold of the protocol.")] = 3,
    days: Annotated[int, typer.Option(min=1, help="Days of simulated history.")] = HISTORY_DAYS,
    customers: Annotated[int | None, typer.Option(help="Customers of the simulated history.")] = None,
    terminals: Annotated[int | None, typer.Option(help="Terminals of the simulated history.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Most epochs of training.")] = 8,
    train_days: Annotated[int, typer.Option(min=1, help="Days of labels to learn from.")] = 28,
    valid_days: Annotated[int, typer.Option(min=1, help="Days to choose and calibrate on.")] = 14,
    test_days: Annotated[int, typer.Option(min=1, help="Days to measure on.")] = 7,
    replace_state: Annotated[
        bool, typer.Option(help="Start the service from this history, even where it has seen events already.")
    ] = False,
) -> None:
    """Trains a risk model on a history and writes model, rows and report."""
    console = Console()
    try:
        folder = out or settings.load().state_dir / "training" / domains.load(domain).name
        sizes = {name: size for name, size in (("customers", customers), ("terminals", terminals)) if size is not None}
        with Steps(console) as steps:
            with steps.step("read the history" if data_file else "simulate the history"):
                history = _history(domain, data_file, column or [], seed, days, sizes)
            store = MemoryStore(history.domain)
            with ThreadPoolExecutor(1) as background:
                # Keras takes longer to load than anything else takes to start: the features are computed meanwhile.
                loading = background.submit(_load_keras)
                with steps.step("compute features", len(history)) as done:
                    features = store.replay(history, done)
                with steps.step("load Keras"):
                    loading.result()
            if protocol is Protocol.HANDBOOK:
                shown = _protocol(history, features, folder, seeds, steps)
            else:
                numbers = (seed, epochs, train_days, valid_days, test_days)
                shown = _train(history, features, folder, numbers, steps)
                if out is None:
                    with steps.step("write the feature state", transfer.size(store)) as done:
                        seeded = transfer.install(store, settings.load(), replace_state, done)
                    shown = (*shown, SEEDED if seeded else KEPT)
        console.print(*shown, sep="\n", soft_wrap=True)
    except VigilError as failure:
        Console(stderr=True).print("[bold red]error[/]", escape(str(failure)), highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


def _load_keras() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    importlib.import_module("training.network")


def _history(
    name: str, data_file: Path | None, columns: list[str], seed: int, days: int, sizes: dict[str, int]
) -> History:
    domain = domains.load(name)
    if data_file is not None:
        return data.from_file(domain, data_file, parse_columns(columns))
    return data.simulated(domain, seed, days, **sizes)


def _train(
    history: History,
    features: np.ndarray,
    out: Path,
    numbers: tuple[int, int, int, int, int],
    steps: Steps,
) -> tuple[Table | str, ...]:
    from training import pipeline, run

    trained = pipeline.train(history, features, pipeline.Plan(*numbers), steps)
    with steps.step("write model and report"):
        run.write(trained, out, datetime.now(UTC))
    table = Table(title=f"on test ({trained.split.test.dates})", title_justify="left")
    for heading in ("model", "ROC AUC", "avg. prec.", "prec@100", "Brier", "ECE"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name in trained.risks:
        found = trained.measures[name]
        keys = ("auc", "average_precision", "card_precision_100", "brier", "ece")
        table.add_row(name, *(f"{found[key]:.4f}" if key in found else "-" for key in keys))
    return table, f"model, rows and report are in {out} (read {out / 'report.html'})"


def _protocol(history: History, features: np.ndarray, out: Path, seeds: int, steps: Steps) -> tuple[Table | str, ...]:
    from training import protocol

    results = protocol.run(history, features, out, seeds, steps)
    table = Table(title="the handbook's protocol", title_justify="left")
    for heading in ("", "ROC AUC", "avg. precision", "CP@100"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in protocol.summary(results):
        table.add_row(*row)
    return table, f"every risk is in {out / 'protocol_risks.parquet'}, the folds in {out / 'protocol.md'}"


if __name__ == "__main__":
    app(prog_name="python -m training")
