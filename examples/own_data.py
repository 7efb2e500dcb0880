"""Brings your own data: from a table of login attempts to a decision of the served model, in under two minutes.

`.venv/bin/python examples/own_data.py [--folder FOLDER]`, after `make setup`. Each step prints the commands that you
would type. The script makes a CSV file first: your own data takes its place. Nothing is left outside the folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
READY_S, STOP_S, CALL_S = 120.0, 30.0, 10.0

FIRST_DAY = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 60
ACCOUNTS = 200
LABEL_DELAY_DAYS = 3
# This table's names of Vigil's fields: event_id and ts, those that logins.py declares, and label.
COLUMNS = {
    "event_id": "LOGIN_NO",
    "ts": "AT",
    "account": "USER_NAME",
    "address": "CLIENT_IP",
    "failures": "WRONG_PASSWORDS",
    "balance": "BALANCE_EUR",
    "label": "STOLEN",
}
TRAIN = ["--train-days", "28", "--valid-days", "7", "--test-days", "7", "--epochs", "4"]


class StepFailed(Exception):
    """A step that did not end well; the message is one sentence for the reader."""


def home_of(account: int) -> str:
    """The address that an account usually logs in from. Every fourth account shares an office with 24 others."""
    return f"192.0.2.{account // 100}" if account % 4 == 0 else f"198.51.100.{account}"


def anywhere(rng: random.Random) -> str:
    """An address that the table has probably not seen yet."""
    return f"10.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}"


def attempts(seed: int) -> list[tuple[datetime, int, str, int, int]]:
    """Logins in order of time: time, account, address, wrong passwords, and 1 where a thief logged in.

    People log in from home or on the way and mistype now and then. On two days of three a thief tries a list of stolen
    passwords from one new address: many accounts within an hour, often at night. Quiet thieves steal one account by
    day; from the columns here they are hard to tell from a traveller.
    """
    rng = random.Random(seed)
    found = []
    for day in range(DAYS):
        midnight = FIRST_DAY + timedelta(days=day)
        for account in range(ACCOUNTS):
            for _ in range(rng.randrange(5)):
                at = midnight + timedelta(hours=min(max(rng.gauss(14, 4), 0), 23.99))
                address = home_of(account) if rng.random() < 0.9 else anywhere(rng)
                found.append((at, account, address, int(rng.expovariate(1.2)), 0))
        if rng.random() < 0.67:
            start, address = midnight + timedelta(hours=rng.choice((1, 2, 3, 4, 13, 20))), anywhere(rng)
            for account in rng.sample(range(ACCOUNTS), rng.randrange(6, 24)):
                at = start + timedelta(minutes=rng.uniform(0, 50))
                found.append((at, account, address, int(rng.expovariate(0.5)), 1))
        for account in rng.sample(range(ACCOUNTS), 2):
            at = midnight + timedelta(hours=rng.uniform(8, 20))
            found.append((at, account, anywhere(rng), int(rng.expovariate(0.5)), 1))
    return sorted(found)


def write_csv(path: Path, seed: int) -> tuple[int, int]:
    """Writes the table and returns how many logins it holds, and how many of them a thief made.

    The label of the newest logins is empty: nobody has reported them yet.
    """
    rows = attempts(seed)
    known_before = FIRST_DAY + timedelta(days=DAYS - LABEL_DELAY_DAYS)
    rng = random.Random(seed)
    balances = [round(rng.lognormvariate(6, 1), 2) for _ in range(ACCOUNTS)]
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(COLUMNS.values())
        for number, (at, account, address, failures, stolen) in enumerate(rows):
            label = stolen if at < known_before else ""
            moment = at.isoformat(sep=" ", timespec="seconds")
            out.writerow([f"login-{number}", moment, f"A{account}", address, failures, balances[account], label])
    return len(rows), sum(row[-1] for row in rows)


def normal_login() -> list[dict[str, Any]]:
    """One login from home, at noon of the day after the table."""
    noon = FIRST_DAY + timedelta(days=DAYS, hours=12)
    return [login("normal-1", noon, 17, home_of(17), failures=0)]


def stolen_logins() -> list[dict[str, Any]]:
    """Twelve accounts in six minutes from an address never seen before, in the night after that."""
    start = FIRST_DAY + timedelta(days=DAYS + 1, hours=3)
    return [
        login(f"stolen-{i}", start + timedelta(seconds=30 * i), 10 * i + 3, "10.9.8.7", failures=i % 4 + 1)
        for i in range(12)
    ]


def login(event_id: str, at: datetime, account: int, address: str, failures: int) -> dict[str, Any]:
    """An event under the names that logins.py declares."""
    who = {"account": f"A{account}", "address": address}
    return {"event_id": event_id, "ts": at.isoformat(), **who, "failures": failures, "balance": 400.0}


def write_json(path: Path, body: Any) -> Path:
    """Writes a body to send, and returns its path."""
    path.write_text(json.dumps(body, indent=1) + "\n")
    return path


def say(step: str) -> None:
    """Announces a step."""
    print(f"\n{step}", flush=True)


def show(command: str) -> None:
    """Prints a command that the reader would type."""
    print(f"$ {command}", flush=True)


def own_environment(folder: Path, store: Path) -> dict[str, str]:
    """This process's environment, with model store and feature state of this example's own.

    The reader's VIGIL_* variables are left out: VIGIL_STATE_URL may name a database that is in use.
    """
    ours = {
        "PYTHONPATH": str(folder),
        "BENTOML_HOME": str(store),
        "VIGIL_STATE_DIR": str(folder / "state"),
    }
    for name, value in ours.items():
        show(f"export {name}={shlex.quote(value)}")
    quiet = {"BENTOML_DO_NOT_TRACK": "True", "ORT_DISABLE_TELEMETRY": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    # Keras, matplotlib and others would write into the reader's home.
    quiet |= {name: str(folder / "cache") for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "KERAS_HOME")}
    return {key: value for key, value in os.environ.items() if not key.startswith("VIGIL_")} | quiet | ours


def vigil(arguments: list[str], environment: dict[str, str]) -> None:
    """Runs a command of Vigil's, with its output on this terminal.

    Raises:
        StepFailed: if it ends with an error, which it has printed.
    """
    command = shlex.join(["vigil", *arguments])
    show(command)
    ended = subprocess.run([sys.executable, "-m", "vigil.cli", *arguments], cwd=ROOT, env=environment, check=False)
    if ended.returncode:
        raise StepFailed(f"`{command}` ended with exit code {ended.returncode}; its message is above.")


def check_port(port: int) -> None:
    """Raises StepFailed if the service cannot listen on `port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as failure:
            raise StepFailed(f"Port {port} cannot be used ({failure}); choose another by --port.") from None


@contextmanager
def service(port: int, log: Path, environment: dict[str, str]) -> Iterator[None]:
    """`bentoml serve` for as long as the block lasts; it is ready in the block.

    Raises:
        StepFailed: if the port is taken, or the service does not become ready.
    """
    check_port(port)
    show(f"VIGIL_DOMAINS=logins VIGIL_GRPC_PORT=0 bentoml serve --host {HOST} --port {port}")
    command = [sys.executable, "-m", "bentoml", "serve", ".", "--host", HOST, "--port", str(port)]
    settings = {"VIGIL_DOMAINS": "logins", "VIGIL_GRPC_PORT": "0"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment | settings, stdout=out, stderr=subprocess.STDOUT)
    try:
        until_s = time.monotonic() + READY_S
        while not is_ready(port):
            if process.poll() is not None or time.monotonic() > until_s:
                last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise StepFailed(f"`bentoml serve` did not become ready; its log ends with:\n{last}")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_ready(port: int) -> bool:
    """Whether the service answers its readiness probe."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/readyz", timeout=CALL_S) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def post(port: int, path: str, body: Path) -> Any:
    """The service's answer to a file of JSON.

    Raises:
        StepFailed: if it refuses the body or does not answer.
    """
    url = f"http://{HOST}:{port}{path}"
    show(f"curl -s {url} -d @{shlex.quote(str(body))}")
    request = urllib.request.Request(url, body.read_bytes(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=CALL_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as failure:
        said = failure.read().decode(errors="replace")
        raise StepFailed(f"The service refused {path} with status {failure.code}: {said}") from None
    except OSError as failure:
        raise StepFailed(f"The service did not answer {path}: {failure}.") from None


def score(port: int, what: str, events: Path) -> None:
    """Scores a file of events in one call and prints the last decision.

    Raises:
        StepFailed: if the rules decided, rather than the model.
    """
    decision = post(port, "/v1/logins/score", events)[-1]
    if decision["tier"] != "full":
        raise StepFailed(f"The tier {decision['tier']} decided {decision['event_id']}; wanted the model (full).")
    reasons = ", ".join(decision["reasons"]) or "none"
    print(f"{what}: {decision['action']}, risk {decision['risk']:.4f}, reasons: {reasons}", flush=True)


def run(folder: Path, store: Path, port: int, seed: int) -> None:
    """All steps, in the order in which you would take them.

    Raises:
        StepFailed: by the first that fails.
    """
    check_port(port)  # before the minute that training may take
    say("Every command runs in this folder, with Vigil's environment on the PATH:")
    show(f"cd {shlex.quote(str(ROOT))}")
    show(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")

    say(f"1  The table: login attempts of {DAYS} days, under column names of its own")
    table = folder / "logins.csv"
    count, stolen = write_csv(table, seed)
    print(f"{table}: {count:,} logins, {stolen:,} of them by thieves; the newest have no label yet. It begins:")
    with table.open() as file:
        print(next(file) + next(file), end="")

    say("2  The domain: one file that says what a login is, on the PYTHONPATH")
    show(f"cp examples/logins.py {shlex.quote(str(folder))}")
    shutil.copyfile(ROOT / "examples" / "logins.py", folder / "logins.py")
    environment = own_environment(folder, store)
    vigil(["features", "list", "--domain", "logins"], environment)

    say("3  Train: features as of each login's time, then a Keras model, beside its baselines")
    columns = [part for field, column in COLUMNS.items() for part in ("--column", f"{field}={column}")]
    vigil(["train", "--domain", "logins", "--data", str(table), *columns, *TRAIN], environment)

    say("4  Optimize: Keras to ONNX; the fastest candidate within the quality budget is stored")
    vigil(["optimize", "--domain", "logins"], environment)

    say("5  Serve, score, and report a label when it is known")
    with service(port, folder / "service.log", environment):
        score(port, "a usual login", write_json(folder / "normal.json", normal_login()))
        score(port, "the last of twelve accounts from one address", write_json(folder / "stolen.json", stolen_logins()))
        report = write_json(folder / "label.json", {"event_id": "stolen-11", "label": 1})
        print(f"the label of that login: {post(port, '/v1/logins/feedback', report)['status']}")


def main() -> None:
    """Runs the example in a folder that is given, or in a temporary one that is removed at the end."""
    parser = argparse.ArgumentParser(description="From a table of login attempts to a decision of the served model.")
    parser.add_argument("--folder", type=Path, help="keep all files in this new or empty folder [default: temporary]")
    parser.add_argument("--store", type=Path, help="BentoML home that gets the model [default: within the folder]")
    parser.add_argument("--port", type=int, default=3000, help="of the service [default: 3000]")
    parser.add_argument("--seed", type=int, default=0, help="decides the table [default: 0]")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the service ends and the folder goes
    try:
        if chosen.folder is None:
            with tempfile.TemporaryDirectory(prefix="vigil-own-data-") as made:
                folder = Path(made)
                run(folder, (chosen.store or folder / "bentoml").resolve(), chosen.port, chosen.seed)
            print("\nDone; the temporary folder is removed. --folder FOLDER keeps it.")
            return
        folder = chosen.folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StepFailed(f"{folder} is not empty; give a new folder, so that no file of yours is overwritten.")
        run(folder, (chosen.store or folder / "bentoml").resolve(), chosen.port, chosen.seed)
        print(f"\nDone; everything is in {folder}, and the report in {folder / 'state/training/logins/report.html'}.")
    except (StepFailed, OSError) as failure:
        sys.exit(f"own_data.py failed. {failure}")
    except KeyboardInterrupt:
        sys.exit("own_data.py was interrupted.")


if __name__ == "__main__":
    main()
