"""What a replay found, as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vigil.domains.spec import Domain
from vigil.replay.rerun import Difference, Tally
from vigil.replay.whatif import Cost, Outcome

COSTS = (
    ("bad events caught", "caught"),
    ("bad events let through", "missed"),
    ("good events stopped", "bothered"),
    ("reviews", "reviews"),
)


def of_tally(tally: Tally) -> RenderableType:
    """Of records run again."""
    parts: list[RenderableType] = []
    if tally.first:
        parts.append(_changes("differ", tally.first, tally.different, exact=True))
    said = f"{tally.same:,} of {tally.total:,} records come out the same to the last bit, {tally.different:,} differ"
    return Group(*parts, *_left_out(tally.left_out), Text(said))


def of_outcome(domain: Domain, outcome: Outcome, tag: str) -> RenderableType:
    """Of records decided anew by the model `tag`."""
    parts: list[RenderableType] = [_actions(domain, outcome)]
    if outcome.labelled:
        parts.append(_costs(domain, outcome))
    if outcome.first:
        parts.append(_changes("change", outcome.first, outcome.changed, exact=False))
    said = f"{outcome.changed:,} of {outcome.actions.total():,} decisions would be others with {tag}"
    return Group(*parts, *_left_out(outcome.left_out), Text(f"{said} and policy {domain.policy.version}"))


def _actions(domain: Domain, outcome: Outcome) -> Table:
    table = Table("before", title="Actions: before, and now", title_justify="left")
    known = domain.policy.actions
    befores = [*known, *sorted({before for before, _ in outcome.actions} - set(known))]
    for action in known:
        table.add_column(action, justify="right")
    for before in befores:
        table.add_row(before, *(f"{outcome.actions[before, now]:,}" for now in known))
    return table


def _costs(domain: Domain, outcome: Outcome) -> Table:
    unit = domain.number(domain.policy.money).unit
    table = Table(f"{outcome.labelled:,} labelled events", title="What it costs", title_justify="left")
    for column in ("before", "now"):
        table.add_column(column, justify="right")
    sides: tuple[Cost, Cost] = (outcome.before, outcome.now)
    for name, attribute in COSTS:
        table.add_row(name, *(f"{getattr(side, attribute):,}" for side in sides))
    table.add_row(f"{domain.policy.money} lost, {unit}", *(f"{side.lost:,.2f}" for side in sides))
    table.add_row(f"cost in all, {unit}", *(f"{side.spent:,.2f}" for side in sides))
    return table


def _changes(verb: str, shown: Sequence[Difference], count: int, exact: bool) -> Table:
    title = f"{len(shown):,} of {count:,} that {verb}"
    table = Table("event", "risk before", "now", "action before", "now", title=title, title_justify="left")
    for each in shown:
        risks = [repr(side.risk) if exact else f"{side.risk:.4f}" for side in (each.record, each.now)]
        before, now = (" ".join((side.action, *side.reasons)) for side in (each.record, each.now))
        table.add_row(Text(str(each.record.event_id)), *risks, Text(before), Text(now))
    return table


def _left_out(left_out: Counter[str]) -> list[Text]:
    return [Text(f"{count:,} not run: {why}") for why, count in left_out.most_common()]
