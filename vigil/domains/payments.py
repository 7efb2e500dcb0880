"""Card payments: is this one fraud?"""

from __future__ import annotations

from typing import Any

from vigil.domains.simulation import simulate
from vigil.domains.spec import Domain, Entity, Number, Policy, Reason, Rules
from vigil.domains.windows import (
    AgeOfFirstAbove,
    AgeOfLabel,
    AgeOfStreak,
    Count,
    CountAbove,
    Feature,
    LabelCount,
    LabelRate,
    LargestExcess,
    LargestRatio,
    LastLabel,
    LeastOfStreak,
    Max,
    Mean,
    Night,
    Ratio,
    ShareAbove,
    Streak,
    TrimmedMean,
    Value,
    Weekend,
    ZScore,
)

LABEL_DELAY_DAYS = 7.0


def _customer(days: float, **more: Any) -> dict[str, Any]:
    return {"of_entity": "customer", "window_days": days, **more}


def _terminal(days: float, **more: Any) -> dict[str, Any]:
    return {"of_entity": "terminal", "window_days": days, "delay_days": LABEL_DELAY_DAYS, **more}


# Times the customer's usual: what the usual itself leaves out, and what counts as high when looking back.
UNUSUAL, HIGH, RAISED = 2.5, 3.0, 2.0

# The set of the Fraud Detection Handbook (chapter 3).
HANDBOOK: tuple[Feature, ...] = (
    Value(name="amount", meaning="amount of the payment", number="amount"),
    Weekend(name="weekend", meaning="1 on Saturday and Sunday"),
    Night(name="night", meaning="1 from 0 to 6 o'clock", last_hour=6),
    *(
        feature
        for d in (1, 7, 30)
        for feature in (
            Count(name=f"customer_count_{d}d", meaning=f"payments of the customer in {d} days, this one too",
                  **_customer(d, current=True)),
            Mean(name=f"customer_mean_{d}d", meaning=f"mean amount of the customer in {d} days, this one too",
                 **_customer(d, current=True, number="amount")),
        )
    ),
    *(
        feature
        for d in (1, 7, 30)
        for feature in (
            Count(name=f"terminal_count_{d}d", meaning=f"payments at the terminal in the {d} days up to a week ago",
                  **_terminal(d)),
            LabelRate(name=f"terminal_risk_{d}d", meaning=f"share of frauds there in the {d} days up to a week ago",
                      **_terminal(d)),
        )
    ),
)  # fmt: skip

# What the amount says against the customer's own usual.
AMOUNT: tuple[Feature, ...] = (
    TrimmedMean(name="customer_usual", meaning="what the customer usually pays: trimmed mean of 90 days",
                times=UNUSUAL, rounds=4, or_current=True, **_customer(90, number="amount")),
    Ratio(name="amount_over_usual", meaning="amount over what is usual", empty=1.0,
          numerator="amount", denominator="customer_usual"),
    Mean(name="customer_past_mean_30d", meaning="mean amount of the customer in 30 days, this one left out",
         or_current=True, **_customer(30, number="amount")),
    Ratio(name="amount_over_mean_30d", meaning="amount over that mean", empty=1.0,
          numerator="amount", denominator="customer_past_mean_30d"),
    Max(name="customer_past_max_30d", meaning="largest amount of the customer in 30 days, this one left out",
        or_current=True, **_customer(30, number="amount")),
    Ratio(name="amount_over_max_30d", meaning="amount over that largest one", empty=1.0,
          numerator="amount", denominator="customer_past_max_30d"),
    ZScore(name="amount_z_30d", meaning="standard deviations from the mean of 30 days",
           **_customer(30, number="amount")),
)  # fmt: skip

# Whether the customer has paid unusually much of late: a stolen card is used more than once.
RECENTLY_HIGH: tuple[Feature, ...] = (
    *(
        CountAbove(name=f"customer_high_{d}d", meaning=f"payments above {HIGH:g} times usual in {d} days",
                   usual="customer_usual", times=HIGH, **_customer(d, number="amount"))
        for d in (7, 14)
    ),
    CountAbove(name="customer_raised_14d", meaning="payments above twice usual in 14 days",
               usual="customer_usual", times=RAISED, **_customer(14, number="amount")),
    ShareAbove(name="customer_raised_share_14d", meaning="share of payments above twice usual in 14 days",
               usual="customer_usual", times=RAISED, **_customer(14, number="amount")),
    LargestRatio(name="customer_largest_ratio_14d", meaning="largest amount over usual in 14 days",
                 usual="customer_usual", **_customer(14, number="amount")),
    LargestExcess(name="customer_largest_excess_14d", meaning="largest amount minus usual in 14 days",
                  usual="customer_usual", **_customer(14, number="amount")),
    AgeOfFirstAbove(name="customer_first_high_14d", meaning=f"days since the first above {HIGH:g} times usual",
                    usual="customer_usual", times=HIGH, empty=15.0, **_customer(14, number="amount")),
)  # fmt: skip

# Frauds at the terminal that their own amount does not explain: the terminal is what they share.
_UNEXPLAINED: dict[str, Any] = {"unexplained_by": "amount_over_usual", "at_most": UNUSUAL}
TERMINAL: tuple[Feature, ...] = (
    Streak(name="terminal_streak", meaning="unexplained frauds since the last genuine payment, as known a week late",
           **_terminal(60), **_UNEXPLAINED),
    AgeOfStreak(name="terminal_streak_age", meaning="days since the first of them", empty=67.0,
                **_terminal(60), **_UNEXPLAINED),
    AgeOfLabel(name="terminal_genuine_age", meaning="days since the last genuine payment known", positive=False,
               empty=67.0, **_terminal(60)),
    AgeOfLabel(name="terminal_unexplained_age", meaning="days since the first unexplained fraud known", positive=True,
               first=True, empty=67.0, **_terminal(60), **_UNEXPLAINED),
    LastLabel(name="terminal_last_label", meaning="the newest label known; -1 where there is none", empty=-1.0,
              **_terminal(60)),
    *(
        LabelCount(name=f"terminal_unexplained_{d}d", meaning=f"unexplained frauds in the {d} days up to a week ago",
                   **_terminal(d), **_UNEXPLAINED)
        for d in (7, 14, 28)
    ),
    LeastOfStreak(name="terminal_streak_least", meaning="the least unusual amount among those frauds", empty=10.0,
                  **_terminal(60), **_UNEXPLAINED),
)  # fmt: skip

DOMAIN = Domain(
    name="payments",
    entities=(
        Entity("customer", aliases=("CUSTOMER_ID",)),
        Entity("terminal", carries=("amount_over_usual",), aliases=("TERMINAL_ID",)),
    ),
    numbers=(Number("amount", unit="EUR", quantum=0.01, above=0.0, aliases=("TX_AMOUNT",)),),
    features=HANDBOOK + AMOUNT + RECENTLY_HIGH + TERMINAL,
    label_delay_days=LABEL_DELAY_DAYS,
    policy=Policy(
        review_at=0.1,
        block_at=0.5,
        money="amount",
        review_cost=5.0,
        block_cost=20.0,
        reasons=(
            Reason(
                "terminal_frauds",
                "terminal_unexplained_28d",
                "frauds at the terminal that their amounts do not explain",
                above=0.5,
            ),
            Reason("amount_unusual", "amount_over_usual", "far more than the customer usually pays", above=UNUSUAL),
            Reason(
                "card_misused_lately",
                "customer_high_14d",
                "the customer has paid unusually much in the last 14 days",
                above=0.5,
            ),
            Reason("amount_high", "amount", "a high amount", above=200.0),
        ),
        rules=Rules(number="amount", limit=1000.0, slope=0.002, intercept=0.0, threshold=0.5),
    ),
    example={
        "event_id": "p-1001",
        "ts": "2018-09-30T12:00:00Z",
        "customer": "C0000042",
        "terminal": "T0000007",
        "amount": 31.5,
    },
    aliases={
        "event_id": ("TRANSACTION_ID",),
        "ts": ("TX_DATETIME",),
        "label": ("TX_FRAUD",),
        "scenario": ("TX_FRAUD_SCENARIO",),
    },
    simulate=simulate,
)
