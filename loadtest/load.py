"""`python -m loadtest.load`: a scenario by Locust against Vigil, and whether its gates hold."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from loadtest import scenario
from testbed.served import ROOT, Served
from vigil.errors import VigilError

CALLERS = "HttpOne,HttpMany,Infer,GrpcOne,GrpcStream"


def main(
    name: Annotated[str, typer.Option("--scenario", help="One of loadtest/gates.toml.")] = "steady",
    host: Annotated[str, typer.Option(help="A running service, as http://127.0.0.1:3000; else one is started.")] = "",
    grpc_host: Annotated[str, typer.Option(help="Its gRPC address.")] = "127.0.0.1:3001",
    callers: Annotated[str, typer.Option(help="Kinds of callers, which share the rate evenly.")] = CALLERS,
    gates: Annotated[Path, typer.Option(help="Scenarios and gates.", dir_okay=False)] = scenario.GATES,
    reports: Annotated[Path, typer.Option(help="Folder for the pages.", file_okay=False)] = Path("reports"),
    processes: Annotated[int, typer.Option(min=1, help="Of the load generator; one fills a core.")] = 1,
) -> None:
    """Writes REPORTS/load.html and Locust's own REPORTS/locust.html; ends with 1 where a gate is broken."""
    try:
        scenario.load(name, gates)
        with ExitStack() as stack:
            if not host:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vigil-load-")))
                own = {"VIGIL_STATE_DIR": str(folder / "state"), "VIGIL_DOMAINS": "payments"}
                service = stack.enter_context(Served(".", folder / "log", own))
                host, grpc_host = service.url, service.grpc_address
            command = [sys.executable, "-m", "locust", "--locustfile", "loadtest/locustfile.py", "--headless"]
            command += ["--only-summary", "--host", host, "--grpc-host", grpc_host, "--scenario", name]
            command += ["--gates", str(gates.resolve()), "--report", str(reports.resolve() / "load.html")]
            command += ["--html", str(reports.resolve() / "locust.html"), "--loglevel", "WARNING"]
            command += ["--processes", str(processes)] if processes > 1 else []
            code = subprocess.run([*command, *callers.split(",")], cwd=ROOT, env=os.environ, check=False).returncode
    except VigilError as failure:
        Console().print(f"[red]load: {failure}")
        raise typer.Exit(1) from None
    raise typer.Exit(code)


if __name__ == "__main__":
    typer.run(main)
