"""The live feed in a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vigil.domains.spec import Domain
from vigil.errors import ConfigError
from vigil.feed.feed import Tally, feed, first_failure, wait_ready
from vigil.feed.senders import GrpcSender, HttpSender, Sender
from vigil.feed.simulator import Simulated

STYLES = ("green", "yellow", "bold red")


def run(
    domain: Domain,
    steps: Iterator[Simulated],
    to: str,
    address: str,
    rate: float,
    count: int,
    seconds: float,
    wait: float,
    key: str = "",
) -> None:
    """Feeds `steps` to `to` (http or grpc) and shows what happens, until it ends or is interrupted.

    Raises:
        ConfigError: for another `to`.
        Unavailable: where the service is not there.
    """
    senders: dict[str, type[HttpSender] | type[GrpcSender]] = {"http": HttpSender, "grpc": GrpcSender}
    if to not in senders:
        raise ConfigError(f"--to: got {to!r}, wanted http or grpc")
    tally = Tally()
    console = Console()
    try:
        with suppress(KeyboardInterrupt):
            asyncio.run(
                _show(domain, steps, senders[to](domain, address, key), rate, count, seconds, wait, tally, console)
            )
    except BaseExceptionGroup as failures:
        raise first_failure(failures) or failures from None
    if tally.answered or tally.errors:
        console.print(summary(domain, tally, f"{to} {address}"))


def skip_steps(steps: Iterator[Simulated], skip: int) -> Iterator[Simulated]:
    """The steps after the first `skip` events."""
    for step in steps:
        if skip > 0:
            skip -= step.event is not None
        else:
            yield step


async def _show(
    domain: Domain,
    steps: Iterator[Simulated],
    sender: Sender,
    rate: float,
    count: int,
    seconds: float,
    wait: float,
    tally: Tally,
    console: Console,
) -> None:
    async with sender:
        with console.status("waiting for the service"):
            await wait_ready(sender, wait)
        if console.is_terminal:
            with Live(console=console, refresh_per_second=8, get_renderable=lambda: _screen(domain, tally)):
                await feed(steps, sender, domain.policy, rate, tally, count, seconds)
            return
        lines = asyncio.create_task(_lines(domain, tally, console))
        try:
            await feed(steps, sender, domain.policy, rate, tally, count, seconds)
        finally:
            lines.cancel()


async def _lines(domain: Domain, tally: Tally, console: Console) -> None:
    """Without a terminal: a line a second, and the newest risky decision of that second."""
    while True:
        await asyncio.sleep(1)
        console.print(_status(tally), soft_wrap=True)
        risky = [item for item in tally.recent if item[1]["action"] != domain.policy.actions[0]]
        for step, decision, latency_ms in risky[-1:]:
            console.print("  ", _decision_line(domain, step, decision, latency_ms), soft_wrap=True)


def _status(tally: Tally) -> Text:
    actions = "  ".join(f"{action} {count:,}" for action, count in sorted(tally.actions.items()))
    errors = f"  errors {sum(tally.errors.values()):,}" if tally.errors else ""
    return Text(
        f"{tally.answered:,} decisions  {tally.rate:,.0f}/s  "
        f"p50 {tally.latency_ms(0.5):.2f} ms  p99 {tally.latency_ms(0.99):.2f} ms  {actions}{errors}"
    )


def _decision_line(domain: Domain, step: Simulated, decision: dict[str, object], latency_ms: float) -> Text:
    assert step.event is not None
    style = STYLES[domain.policy.actions.index(str(decision["action"]))]
    when = datetime.fromtimestamp(step.event["ts"] / 1000, UTC).strftime("%m-%d %H:%M:%S")
    reasons = ", ".join(decision["reasons"]) if isinstance(decision["reasons"], list) else ""
    text = Text(f"{when}  {step.event_id:>12}  {step.value:>9.2f}  risk {decision['risk']:.4f}  ")
    text.append(f"{decision['action']:<8}", style)
    text.append(f"{'fraud' if step.label else '':<6}{reasons}")
    return text


def _screen(domain: Domain, tally: Tally) -> Group:
    lines = [_decision_line(domain, *item) for item in tally.recent]
    return Group(*lines, Text(), _status(tally))


def summary(domain: Domain, tally: Tally, target: str) -> Table:
    """What the feed has seen: decisions, latencies, quality against the simulation's truth."""
    table = Table(title=f"{domain.name} over {target}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("decisions", f"{tally.answered:,} ({tally.rate:,.0f} a second)")
    for action, style in zip(domain.policy.actions, STYLES, strict=True):
        table.add_row(f"  {action}", Text(f"{tally.actions[action]:,}", style))
    quantiles = "  ".join(f"p{q:g} {tally.latency_ms(q / 100, 0):.2f}" for q in (50, 95, 99))
    table.add_row("latency, ms", quantiles)
    quality = tally.quality()
    table.add_row("bad events caught", f"{quality['caught']:.0f} of {quality['frauds']:.0f}")
    table.add_row("good events stopped", f"{quality['alarms']:.0f} of {tally.answered - quality['frauds']:.0f}")
    table.add_row("average precision", f"{quality['average_precision']:.3f}")
    table.add_row(f"{domain.policy.money} saved", f"{quality['saved']:,.2f} of {quality['at_stake']:,.2f}")
    if tally.feedbacks:
        table.add_row("labels sent", f"{tally.feedbacks:,}")
    if tally.degraded:
        table.add_row("degraded", Text(f"{tally.degraded:,} answered without the model", "yellow"))
    for message, count in tally.errors.most_common(3):
        table.add_row(Text("refused", "red"), f"{count:,} x {message}")
    return table
