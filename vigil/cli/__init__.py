"""The command line: `vigil --help`."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vigil import __version__, domains
from vigil.errors import ConfigError, StateError, VigilError

if TYPE_CHECKING:
    from vigil.features.memory.store import MemoryStore

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Real-time risk prediction: events in, a calibrated risk and a decision out.",
)
models = typer.Typer(no_args_is_help=True, help="The models in the store, their aliases and integrity.")
features = typer.Typer(no_args_is_help=True, help="The feature spec, and features of a whole history.")
keys = typer.Typer(no_args_is_help=True, help="API keys: who may call the service.")
audit = typer.Typer(no_args_is_help=True, help="The log of key changes, loads, unloads, feedback and refused calls.")
app.add_typer(models, name="models")
app.add_typer(keys, name="keys")
app.add_typer(features, name="features")
app.add_typer(audit, name="audit")

console = Console()

DomainName = Annotated[str, typer.Option("--domain", help="A shipped domain or an importable module.")]
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"vigil {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Real-time risk prediction: events in, features on the fly, a calibrated risk and a decision out."""


def report_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Errors of our own become one line and exit code 1, and so does what is not installed."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except VigilError as failure:
            said = str(failure)
        except ModuleNotFoundError as failure:
            said = f"{failure.name} is not installed here: what serves holds neither Parquet nor what trains"
        else:
            return
        Console(stderr=True).print("[bold red]error[/]", escape(said), highlight=False, soft_wrap=True)
        raise typer.Exit(1)

    return run


@app.command(context_settings=PASS_ON, help="Trains a risk model on a history: `python -m training`.")
@report_errors
def train(context: typer.Context) -> None:
    _run_module("training", context.args)


@app.command(
    context_settings=PASS_ON, help="Makes the trained model small, checks it and stores it: `python -m optimize`."
)
@report_errors
def optimize(context: typer.Context) -> None:
    _run_module("optimize", context.args)


def _run_module(name: str, arguments: list[str]) -> None:
    import_module(name)  # which says what is missing; runpy does not
    sys.argv = [f"vigil {'train' if name == 'training' else name}", *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=False)


@models.command("list")
@report_errors
def models_list() -> None:
    """All stored models, newest first, with the aliases that point at them."""
    from vigil.cli import model_tables

    console.print(model_tables.overview())


@models.command("show")
@report_errors
def models_show(name: str, version: Annotated[str, typer.Argument(help="A version or an alias.")] = "champion") -> None:
    """One model: manifest, metrics, how its candidates did."""
    from vigil.cli import model_tables

    console.print(model_tables.page(name, version))


@models.command("promote")
@report_errors
def models_promote(name: str, version: str, alias: Annotated[str, typer.Option()] = "champion") -> None:
    """Lets an alias point at a version; a service that starts from then on serves it."""
    import model_store
    from vigil import settings

    stored = model_store.promote(name, version, alias, settings.load().model_trust)
    _record("models promote", f"{name}@{alias}", stored.tag)
    console.print(f"{name}@{alias} is now {name}:{version}")


@models.command("rollback")
@report_errors
def models_rollback(name: str, alias: Annotated[str, typer.Option()] = "champion") -> None:
    """Lets an alias point at what it pointed at before."""
    import model_store

    version = model_store.rollback(name, alias)
    _record("models rollback", f"{name}@{alias}", f"{name}:{version}")
    console.print(f"{name}@{alias} is now {name}:{version}")


@models.command("sign")
@report_errors
def models_sign(
    name: str,
    version: Annotated[str, typer.Argument(help="A version or an alias.")] = "champion",
    key: Annotated[Path | None, typer.Option(help="PEM file of a private key; default: VIGIL_MODEL_KEY.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM file of its certificate and those above it.")] = None,
) -> None:
    """Signs a model as OpenSSF's model-signing does: all of its files, in model.sig beside them."""
    import model_store
    from vigil import settings

    found = settings.load()
    key, certificate = key or found.model_key, certificate or found.model_certificate
    if key is None:
        raise ConfigError("no key to sign with: give --key or VIGIL_MODEL_KEY")
    stored = model_store.resolve(name, version)
    model_store.read(stored)
    who = model_store.sign(stored.path, key, certificate)
    _record("models sign", stored.tag, who)
    console.print(escape(f"{stored.tag} is signed by {who}"))


@models.command("verify")
@report_errors
def models_verify(
    name: str, version: Annotated[str, typer.Argument(help="A version or an alias.")] = "champion"
) -> None:
    """Checks a model as the service does at load: digest, feature spec and, with VIGIL_MODEL_TRUST, its signature."""
    import model_store
    from vigil import settings

    stored, trust = model_store.resolve(name, version), settings.load().model_trust
    model_store.verify(stored, domains.load(name), trust)
    signed = "; signed by one who is trusted" if trust else ""
    console.print(f"{stored.tag}: digest and feature spec match the manifest{signed}")


@keys.command("create")
@report_errors
def keys_create(
    name: Annotated[str, typer.Argument(help="Who will hold it.")],
    scopes: Annotated[str, typer.Option(help="Comma-separated: score, infer, feedback, read, admin, metrics.")],
    days: Annotated[float, typer.Option(min=0, help="How long it counts; 0: until it is revoked.")] = 0,
    subject: Annotated[str, typer.Option(help="Instead of a key: the name in the holder's client certificate.")] = "",
    rate: Annotated[float | None, typer.Option(min=0, help="Calls a second, in place of VIGIL_RATE_LIMIT.")] = None,
    burst: Annotated[float | None, typer.Option(min=0, help="And how many at once.")] = None,
) -> None:
    """Makes a key and prints it, once: only its hash is stored. Services that run know it within a second."""
    from datetime import UTC, datetime, timedelta

    from vigil.access import keys as stored

    path = _keys_path()
    expires = datetime.now(UTC) + timedelta(days=days) if days else None
    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    key, text = stored.create(path, name, wanted, expires, subject, rate, burst)
    _record("keys create", key.id, f"{name}: {', '.join(key.scopes)}")
    said = f"{key.id} for {name}: {', '.join(key.scopes)}; in {path}"
    Console(stderr=True).print(escape(said), highlight=False, soft_wrap=True)
    if text:
        typer.echo(text)


@keys.command("list")
@report_errors
def keys_list() -> None:
    """The keys there are; none can be read back."""
    from vigil.access import keys as stored

    table = Table(*("id", "name", "scopes", "created", "expires", "shown as"), box=None)
    for key in stored.read(_keys_path()):
        expires = f"{key.expires:%Y-%m-%d %H:%M}" if key.expires else "never"
        shown = f"certificate {key.subject}" if key.subject else "key"
        table.add_row(
            key.id, escape(key.name), ", ".join(key.scopes), f"{key.created:%Y-%m-%d}", expires, escape(shown)
        )
    console.print(table)


@keys.command("revoke")
@report_errors
def keys_revoke(
    id_: Annotated[str, typer.Argument(metavar="ID", help="As `vigil keys list` shows it.")],
    after_hours: Annotated[float, typer.Option(min=0, help="How long it counts on, beside the one in its place.")] = 0,
) -> None:
    """Ends a key, at once or after hours in which its holder takes a new one."""
    from datetime import timedelta

    from vigil.access import keys as stored

    key = stored.revoke(_keys_path(), id_, timedelta(hours=after_hours))
    _record("keys revoke", key.id, f"{key.name}, after {after_hours:g} h")
    when = f"counts until {key.expires:%Y-%m-%d %H:%M} UTC" if after_hours else "counts no more"
    console.print(escape(f"{key.id} of {key.name} {when}"), highlight=False, soft_wrap=True)


def _record(what: str, target: str, result: str) -> None:
    """Writes into the audit log what somebody did by a command."""
    import time

    from vigil import settings
    from vigil.access import audit

    found = settings.load()
    log = audit.AuditLog(audit.folder(found), lambda: time.time_ns() // 1_000_000, audit.read_key(found.audit_key_file))
    log.write("local user", what, "", target, result)
    if log.close():
        Console(stderr=True).print("[bold red]error[/] the audit log cannot be written; the change is made")


def _keys_path() -> Path:
    from vigil import settings
    from vigil.access import gate

    return gate.keys_path(settings.load())


@features.command("list")
@report_errors
def features_list(domain: DomainName = "payments") -> None:
    """The domain's feature spec: names in order, dtype, meaning, and the hash that models are held to."""
    chosen = domains.load(domain)
    table = Table(title=f"{chosen.name}: spec {chosen.spec_hash}", title_justify="left")
    for column in ("", "name", "dtype", "meaning"):
        table.add_column(column)
    for i, feature in enumerate(chosen.features):
        table.add_row(str(i), feature.name, "float32", feature.meaning)
    console.print(table)


@features.command("table")
@report_errors
def features_table(
    data: Annotated[Path, typer.Option(help="History: Parquet or CSV.")],
    out: Annotated[Path, typer.Option(help="Where to: Parquet or CSV.")],
    domain: DomainName = "payments",
    column: Annotated[list[str] | None, typer.Option(help="FIELD=COLUMN where a column has another name.")] = None,
) -> None:
    """Writes the point-in-time features of a whole history: what an event would have got when it happened."""
    from vigil.features import history
    from vigil.features.memory.store import MemoryStore
    from vigil.progress import Steps

    chosen = domains.load(domain)
    past = history.read(chosen, data, history.parse_columns(column or []))
    with Steps(console) as steps, steps.step("features", len(past)) as done:
        table = MemoryStore(chosen).replay(past, done)
    history.write_table(out, past, table)
    console.print(f"{len(past):,} events x {table.shape[1]} features -> {out}")


@features.command("export")
@report_errors
def features_export(
    to: Annotated[Path, typer.Option(help="A folder; the snapshot in it is what a memory state restores.")],
    domain: DomainName = "payments",
) -> None:
    """Writes the feature state that VIGIL_STATE_URL names as a snapshot. Nobody should write meanwhile."""
    from vigil import settings
    from vigil.features import transfer
    from vigil.progress import Steps

    with Steps(console) as steps, steps.step("feature state", 0) as done:
        store = transfer.export(domains.load(domain), settings.load(), to, done)
    console.print(f"{store.count:,} entities -> {to / 'snapshot'}")


@features.command("import")
@report_errors
def features_import(
    source: Annotated[Path, typer.Option("--from", help="A folder that export wrote.")],
    domain: DomainName = "payments",
    replace: Annotated[bool, typer.Option(help="Remove the state that is there.")] = False,
) -> None:
    """Makes a snapshot the feature state that VIGIL_STATE_URL names."""
    from vigil.features import transfer

    _put(transfer.load(domains.load(domain), source), replace)


@features.command("recover")
@report_errors
def features_recover(
    domain: Annotated[str, typer.Argument(help="A shipped domain or an importable module.")] = "payments",
) -> None:
    """Writes what can be read of a damaged state in memory into a new snapshot; keeps the files, says what is lost."""
    from vigil import settings
    from vigil.features.memory.recover import recover

    report = recover(domains.load(domain), settings.load())
    for line in report.lines() if report else ("nothing is damaged, and nothing was changed",):
        console.print(line, soft_wrap=True)


@features.command("rebuild")
@report_errors
def features_rebuild(
    data: Annotated[str, typer.Option(help="History: Parquet, CSV, or kafka://HOST:PORT/TOPIC from its beginning.")],
    domain: DomainName = "payments",
    column: Annotated[list[str] | None, typer.Option(help="FIELD=COLUMN where a column has another name.")] = None,
    feedback: Annotated[str, typer.Option(help="Kafka: topic that labels come from.")] = "vigil.feedback",
    replace: Annotated[bool, typer.Option(help="Remove the state that is there.")] = False,
) -> None:
    """Makes the feature state that VIGIL_STATE_URL names anew, from a history."""
    from vigil.features import history
    from vigil.features.memory.store import MemoryStore
    from vigil.progress import Steps
    from vigil.stream import run

    chosen = domains.load(domain)
    with Steps(console) as steps:
        if data.startswith("kafka://"):
            with steps.step("records of Kafka", 0) as done:
                store = run.rebuild(chosen, data, feedback, done)
        else:
            past = history.read(chosen, Path(data), history.parse_columns(column or []))
            store = MemoryStore(chosen)
            with steps.step("features", len(past)) as done:
                store.replay(past, done)
    _put(store, replace)


def _put(store: MemoryStore, replace: bool) -> None:
    from vigil import settings
    from vigil.features import transfer
    from vigil.progress import Steps

    found = settings.load()
    with Steps(console) as steps, steps.step("entities and events", transfer.size(store)) as done:
        written, where = transfer.install(store, found, replace, done), transfer.location(store.domain, found)
    if not written:
        raise StateError(f"{where} holds a state already; --replace removes it and takes this one")
    console.print(f"{store.count:,} entities -> {where}")


@app.command()
@report_errors
def simulate(
    to: Annotated[str, typer.Option(help="http, grpc, -, PATH.jsonl, or kafka://HOST:PORT/TOPIC.")] = "http",
    rate: Annotated[float, typer.Option(min=0, help="Events a second; 0: as fast as it goes.")] = 200.0,
    count: Annotated[int, typer.Option(min=0, help="Stop after so many events; 0: no end.")] = 0,
    seconds: Annotated[float, typer.Option(min=0, help="Stop after so long; 0: no end.")] = 0.0,
    domain: DomainName = "payments",
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Default: 3000 for http, 3001 for grpc.")] = 0,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the service to be ready.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Of the simulated world: as the history was made.")] = 0,
    first_day: Annotated[int, typer.Option(help="Day of the world to begin at: after the history's 183.")] = 183,
    skip: Annotated[int, typer.Option(help="Leave out so many events first, as from an earlier feed.")] = 0,
    customers: Annotated[int, typer.Option()] = 5000,
    terminals: Annotated[int, typer.Option()] = 10000,
    feedback: Annotated[str, typer.Option(help="Kafka: topic for labels.")] = "vigil.feedback",
) -> None:
    """A live feed: sends simulated events; over HTTP and gRPC it prints decisions, rate and latencies as they come."""
    from vigil import settings
    from vigil.feed import console as live
    from vigil.feed.outlets import open_outlet, pour
    from vigil.feed.simulator import stream as simulated

    chosen = domains.load(domain)
    steps = live.skip_steps(simulated(chosen, seed, first_day, customers=customers, terminals=terminals), skip)
    if to not in ("http", "grpc"):
        with suppress(BrokenPipeError, KeyboardInterrupt):
            pour(steps, open_outlet(to, chosen, feedback), rate, count, seconds)
        return
    live.run(
        chosen,
        steps,
        to,
        f"{host}:{port or (3001 if to == 'grpc' else 3000)}",
        rate,
        count,
        seconds,
        wait,
        settings.load().client_key,
    )


@app.command()
@report_errors
def stream(
    source: Annotated[str, typer.Option("--from", help="-, X.jsonl, X.parquet or kafka://HOST:PORT/TOPIC.")] = "-",
    sink: Annotated[str, typer.Option("--to", help="As --from.")] = "-",
    domain: DomainName = "payments",
    column: Annotated[list[str] | None, typer.Option(help="FIELD=COLUMN, of a Parquet source.")] = None,
    with_features: Annotated[
        bool, typer.Option("--features/--no-features", help="Features in the records: what a replay needs.")
    ] = True,
    group: Annotated[str, typer.Option(help="Kafka: the consumer group.")] = "vigil",
    feedback: Annotated[str, typer.Option(help="Kafka: topic that labels come from.")] = "vigil.feedback",
    alerts: Annotated[str, typer.Option(help="Kafka: topic for what the policy stops.")] = "vigil.alerts",
    dead_letters: Annotated[str, typer.Option(help="Kafka: topic for what cannot be scored.")] = "vigil.dead-letter",
    replay_dead_letters: Annotated[bool, typer.Option("--replay-dead-letters", help="Put them back, and end.")] = False,
    stop_at_end: Annotated[bool, typer.Option("--stop-at-end", help="Kafka: end once all is read.")] = False,
) -> None:
    """Scores a stream of events into decision records: from and to files, pipes, Kafka."""
    from vigil.stream import interpreter

    interpreter.tune()
    from vigil.stream import run
    from vigil.stream.topics import Topic, Topics

    with suppress(BrokenPipeError, KeyboardInterrupt):
        if replay_dead_letters:
            said = run.replay_dead_letters(Topic(Topic.parse(source).brokers, dead_letters), group)
        elif source.startswith("kafka://") and sink.startswith("kafka://"):
            topics = Topics(Topic.parse(source), Topic.parse(sink), feedback, alerts, dead_letters, group)
            said = run.kafka(domains.load(domain), topics, with_features, stop_at_end)
        else:
            said = run.embedded(domains.load(domain), source, sink, column or [], with_features, stop_at_end)
        Console(stderr=True).print(said, highlight=False)


@app.command()
@report_errors
def replay(
    source: Annotated[
        str, typer.Option("--from", help="X.jsonl, a folder, or kafka://HOST:PORT/TOPIC; default: this machine's.")
    ] = "",
    domain: DomainName = "payments",
    model: Annotated[str, typer.Option(help="Decide anew: an alias or a version of the model.")] = "",
    labels: Annotated[str, typer.Option(help="With --model, what it costs: labels, X.jsonl or kafka://...")] = "",
    to: Annotated[Path | None, typer.Option(help="X.jsonl for the records that differ, or change.")] = None,
) -> None:
    """Runs decision records again, to the last bit, or with --model decides them anew and says what it would cost."""
    from vigil.replay import run

    chosen = domains.load(domain)
    if labels and not model:
        raise ConfigError("--labels tell what other decisions would cost: which model's, --model says")
    if model:
        run.what_if(chosen, source, model, labels, to, console)
    elif not run.replay(chosen, source, to, console):
        raise typer.Exit(1)


AuditFolder = Annotated[Path | None, typer.Option("--dir", help="Folder of the log; default: in VIGIL_STATE_DIR.")]


@audit.command("verify")
@report_errors
def audit_verify(folder: AuditFolder = None) -> None:
    """Finds changed, missing, inserted and reordered lines. Exits with 1 where there are any."""
    from vigil import settings
    from vigil.access import audit

    found = settings.load()
    verdicts = audit.verify(folder or audit.folder(found), audit.read_key(found.audit_key_file))
    table = Table("chain", "files", "lines", "first", "last", "state")
    for one in verdicts:
        torn = f", ends in a torn line ({one.torn} bytes)" if one.torn else ""
        state = "[bold red]broken[/]" if one.fault else f"whole{torn}"
        table.add_row(one.name, f"{one.files:,}", f"{one.lines:,}", one.first, one.last, state)
    console.print(table if verdicts else "there is no audit log")
    for one in verdicts:
        if one.fault:
            console.print(escape(one.fault), highlight=False, soft_wrap=True)
    if any(one.fault for one in verdicts):
        raise typer.Exit(1)


@audit.command("show")
@report_errors
def audit_show(
    since: Annotated[str, typer.Option(help="A date or time: 2026-01-31, 2026-01-31T12:00:00Z.")] = "",
    what: Annotated[str, typer.Option(help="Only this act, such as load.")] = "",
    who: Annotated[str, typer.Option(help="Only by this caller.")] = "",
    folder: AuditFolder = None,
) -> None:
    """Prints lines of all chains, by time."""
    from vigil import settings
    from vigil.access import audit

    for line in audit.find(folder or audit.folder(settings.load()), since, what, who):
        typer.echo(line)


@app.command()
@report_errors
def doctor() -> None:
    """Checks what this machine and these settings are ready for, and says what to do where they are not."""
    from vigil.cli.doctor import health

    table, well = health()
    console.print(table)
    if not well:
        raise typer.Exit(1)
