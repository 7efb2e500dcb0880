"""What `vigil replay` runs."""

from __future__ import annotations

from pathlib import Path

import msgspec
from rich.console import Console

from vigil import settings
from vigil.domains.spec import Domain
from vigil.errors import ConfigError, DataError
from vigil.progress import Steps
from vigil.replay import report, sources
from vigil.replay.rerun import Rerun, as_dict
from vigil.replay.whatif import WhatIf
from vigil.scoring.session import Session
from vigil.stream.endpoints import check_apart
from vigil.stream.files import JsonLinesOut


def replay(domain: Domain, source: str, to: Path | None, console: Console) -> bool:
    """Runs records again as they were decided, and prints what came of it.

    Args:
        domain: whose records.
        source: address of the records; "": those of this machine's service.
        to: a file for the records that differ, if any.

    Returns:
        whether each record that could be run came out the same to the last bit.

    Raises:
        ConfigError, DataError, Unavailable: where records cannot be read; DataError also where none could be run.
    """
    _check_to(to, source)
    rerun = Rerun(domain, settings.load().max_batch)
    _run(rerun, source, to, console)
    console.print(report.of_tally(rerun.tally))
    _check_some(rerun.tally.total, rerun.tally.left_out.total())
    return not rerun.tally.different


def what_if(domain: Domain, source: str, model: str, labels: str, to: Path | None, console: Console) -> None:
    """Decides records anew by a model and the domain's present policy, and prints what changes.

    Args:
        domain: whose records.
        source: address of the records; "": those of this machine's service.
        model: alias or version.
        labels: address of labels that tell what decisions cost; "": none.
        to: a file for the decisions that change, if any.

    Raises:
        NotFound, ModelRefused: where the model cannot be had.
        ConfigError, DataError, Unavailable: where records or labels cannot be read; DataError also where none
            could be run.
    """
    _check_to(to, source, labels)
    found = settings.load()
    session = Session.load(domain, model, found.max_batch, found.model_trust)
    what_if = WhatIf(domain, session, sources.labels(labels) if labels else {})
    _run(what_if, source, to, console)
    console.print(report.of_outcome(domain, what_if.outcome, session.tag))
    _check_some(what_if.outcome.total, what_if.outcome.left_out.total())


def _run(runner: Rerun | WhatIf, source: str, to: Path | None, console: Console) -> None:
    lines = sources.lines(source)
    out, encode = JsonLinesOut(to) if to else None, msgspec.json.Encoder().encode
    with Steps(console) as steps, steps.step(f"records, {lines.unit}", lines.total) as done:
        for batch, reached in lines.batches(sources.BATCH):
            changed = runner.add(batch)
            if out:
                out.write([encode(as_dict(each)) for each in changed])
            done(reached)
    if out:
        out.close()


def _check_to(to: Path | None, *read: str) -> None:
    if to and to.suffix != ".jsonl":
        raise ConfigError(f"--to {str(to)!r}: wanted a path ending in .jsonl")
    for address in read if to else ():
        check_apart(address, str(to))


def _check_some(total: int, left_out: int) -> None:
    if total == left_out:
        raise DataError(f"none of {total:,} records could be run")
