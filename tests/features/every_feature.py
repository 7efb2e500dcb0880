"""A domain that declares every kind of feature there is, so that each is tried without being named."""

from __future__ import annotations

from vigil.domains import windows as w
from vigil.domains.spec import Domain, Entity, Number, Policy, Rules


def _variants(kind: type[w.Feature], i: int) -> list[w.Feature]:
    """Some features of one kind, with every option it has."""
    fields = set(kind.__dataclass_fields__)
    base: dict[str, object] = {"meaning": "-", "empty": -7.0}
    base |= {"number": "amount"} if "number" in fields else {}
    base |= {"numerator": "f_value", "denominator": "f_usual"} if "numerator" in fields else {}
    base |= {"left": "f_value", "right": "f_usual"} if "left" in fields else {}
    base |= {"usual": "f_usual", "times": 1.3} if "usual" in fields else {}
    base |= {"positive": True} if "positive" in fields else {}
    if "window_days" not in fields:
        return [kind(name=f"f{i}", **base)]  # type: ignore[arg-type]
    labels = issubclass(kind, w._Labels)
    found = []
    tries = [("a", 0.5, 0.0), ("a", 3.0, 1.0), ("b", 2.0, 1.0), ("b", 5.0, 0.25)]
    for j, (entity, days, delay) in enumerate(tries):
        if kind is w.LeastOfStreak and entity == "a":
            continue
        options = base | {"of_entity": entity, "window_days": days, "delay_days": max(delay, 1.0) if labels else delay}
        if not labels and not delay and kind not in (w.AgeOfFirstAbove,):
            options["current"] = True
        if "or_current" in fields and j % 2:
            options["or_current"] = True
        if labels and entity == "b" and (j == 3 or kind is w.LeastOfStreak):
            options |= {"unexplained_by": "f_ratio", "at_most": 1.2}
        if "positive" in fields:
            options |= {"positive": bool(j % 2), "first": j > 1}
        found.append(kind(name=f"f{i}_{j}", **options))  # type: ignore[arg-type]
    return found


DOMAIN = Domain(
    name="every_feature",
    entities=(Entity("a"), Entity("b", carries=("f_ratio",))),
    numbers=(Number("amount", unit="EUR", above=0.0),),
    features=(
        w.Value(name="f_value", meaning="-", number="amount"),
        w.TrimmedMean(
            name="f_usual", meaning="-", number="amount", of_entity="a", window_days=4, or_current=True, times=1.5
        ),
        w.Ratio(name="f_ratio", meaning="-", numerator="f_value", denominator="f_usual", empty=1.0),
        *(feature for i, kind in enumerate(w.KINDS) for feature in _variants(kind, i)),
    ),
    label_delay_days=1.0,
    grace_days=0.5,
    policy=Policy(
        review_at=0.1,
        block_at=0.5,
        money="amount",
        review_cost=1,
        block_cost=1,
        rules=Rules(number="amount", limit=100, slope=0.01, intercept=0, threshold=0.5),
    ),
    example={"event_id": "1", "ts": 1_538_308_800_000, "a": "x", "b": "y", "amount": 1.0},
)
