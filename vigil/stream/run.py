"""What `vigil stream` runs: an engine of its own between a source and a sink."""

from __future__ import annotations

from collections.abc import Sequence

from vigil import settings
from vigil.domains.spec import Domain
from vigil.engine import Engine
from vigil.errors import ConfigError
from vigil.features.history import parse_columns
from vigil.stream import files
from vigil.stream.flow import clock_ms, flow, to_stderr
from vigil.stream.scorer import Scorer


def embedded(domain: Domain, source: str, sink: str, columns: Sequence[str], with_features: bool) -> str:
    """Scores files and pipes; needs no server.

    Args:
        source, sink: addresses of files or pipes.
        columns: `FIELD=COLUMN` of a Parquet source.
        with_features: whether the records shall hold the features.

    Returns:
        what was done, in a line.

    Raises:
        ConfigError: for an address that is none, or where a package is missing.
        DataError: where the source cannot be read or the sink not be written.
    """
    try:
        events, out = files.source(source, domain, parse_columns(columns)), files.sink(sink)
    except ModuleNotFoundError as missing:
        raise ConfigError(f"{missing.name} is not installed, Parquet needs it: pip install 'vigil[stream]'") from None
    engine = Engine.open(domain, settings.load(), clock_ms)
    try:
        total = flow(events, Scorer(engine, with_features), out, to_stderr, clock_ms)
    finally:
        engine.close()
    delivered = min(events.guarantee, out.guarantee)
    return f"{total.decided:,} decisions, {total.refused:,} refused; delivered {delivered}"
