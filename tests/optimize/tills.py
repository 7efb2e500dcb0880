"""A small domain, as a user declares one in a module of their own."""

from __future__ import annotations

from vigil.domains.spec import Domain, Entity, Number, Policy, Rules
from vigil.domains.windows import Count, Feature, Mean, Value

_WINDOWS: tuple[Feature, ...] = tuple(
    feature
    for days in (1, 7, 30)
    for feature in (
        Count(name=f"count_{days}d", meaning="payments at the till", of_entity="till", window_days=days),
        Mean(name=f"mean_{days}d", meaning="their mean", of_entity="till", window_days=days, number="amount"),
    )
)

DOMAIN = Domain(
    name="tills",
    entities=(Entity("till"),),
    numbers=(Number("amount", unit="euros", above=0.0),),
    features=(Value(name="amount", meaning="the amount", number="amount"), *_WINDOWS),
    policy=Policy(
        review_at=0.5,
        block_at=0.9,
        rules=Rules(number="amount", limit=1000.0, slope=0.001, intercept=0.0, threshold=0.5),
        money="amount",
        review_cost=1.0,
        block_cost=5.0,
    ),
    label_delay_days=7.0,
    example={"event_id": "e", "ts": 1_538_308_800_000, "till": 1, "amount": 1.0},
)
