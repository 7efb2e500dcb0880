"""`make kafka`: a broker in the foreground, with Vigil's topics."""

from __future__ import annotations

import shutil
import signal
import tempfile
from pathlib import Path

import typer

from testbed.kafka.broker import Broker
from vigil.errors import VigilError

TOPICS = ("vigil.events.payments", "vigil.feedback", "vigil.decisions", "vigil.alerts", "vigil.dead-letter")


def main(port: int = 9092) -> None:
    """Runs until it is stopped; what it held is gone then."""
    folder = Path(tempfile.mkdtemp(prefix="vigil-kafka-"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Broker(folder, port) as broker:
            broker.create(TOPICS)
            print(f"Kafka on {broker.address}, topics {', '.join(TOPICS)}; Ctrl-C ends it", flush=True)
            broker.wait()
    except VigilError as failure:
        typer.echo(f"kafka: {failure}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    typer.run(main)
