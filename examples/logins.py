"""A domain of your own, for login attempts. `examples/own_data.py` trains and serves it.

docs/your-own-domain.md explains each part. To begin your own, copy this file to a folder on your PYTHONPATH
and give it the domain's name.
"""

from vigil.domains.spec import Domain, Entity, Number, Policy, Reason, Rules
from vigil.domains.windows import Count, LabelCount, Max, Mean, Night, Ratio, SinceLast, Value

HOUR = 1 / 24  # windows are in days
LABEL_DELAY_DAYS = 3  # owners report a stolen account within three days

DOMAIN = Domain(
    name="logins",
    entities=(Entity("account"), Entity("address")),
    numbers=(
        Number("failures", unit="wrong passwords", quantum=1.0, at_least=0.0, at_most=1000.0),
        Number("balance", unit="EUR", quantum=0.01, at_least=0.0),
    ),
    features=(
        Value(name="failures", meaning="wrong passwords just before this login", number="failures"),
        Value(name="balance", meaning="money in the account", number="balance"),
        Night(name="night", meaning="1 from 0 to 5 o'clock (UTC)", last_hour=5),
        Count(
            name="account_logins_1d",
            meaning="logins to the account in a day, this one included",
            of_entity="account",
            window_days=1,
            current=True,
        ),
        SinceLast(
            name="account_pause_s",
            meaning="seconds since the account's last login",
            of_entity="account",
            window_days=14,
            empty=1_209_600.0,
        ),
        Mean(
            name="account_failures_30d",
            meaning="wrong passwords that are usual for the account",
            number="failures",
            of_entity="account",
            window_days=30,
        ),
        Count(
            name="address_logins_1h",
            meaning="logins from the address in an hour, this one included",
            of_entity="address",
            window_days=HOUR,
            current=True,
        ),
        Count(
            name="address_logins_14d",
            meaning="logins from the address in 14 days, this one included",
            of_entity="address",
            window_days=14,
            current=True,
        ),
        Ratio(
            name="address_burst",
            meaning="share of the address's 14 days that falls into the last hour",
            numerator="address_logins_1h",
            denominator="address_logins_14d",
        ),
        Max(
            name="address_failures_1h",
            meaning="most wrong passwords before a login from the address in an hour",
            number="failures",
            of_entity="address",
            window_days=HOUR,
        ),
        LabelCount(
            name="address_thefts_30d",
            meaning="stolen accounts at the address, as known three days later",
            of_entity="address",
            window_days=30,
            delay_days=LABEL_DELAY_DAYS,
        ),
    ),
    label_delay_days=LABEL_DELAY_DAYS,
    policy=Policy(
        actions=("allow", "second_factor", "refuse"),
        review_at=0.1,
        block_at=0.6,
        money="balance",
        review_cost=0.5,
        block_cost=10.0,
        reasons=(
            Reason("many_accounts", "address_logins_1h", "many logins from one address within an hour", above=5.0),
            Reason("wrong_passwords", "failures", "several wrong passwords before this login", above=2.5),
            Reason("at_night", "night", "at night", above=0.5),
        ),
        rules=Rules(number="failures", limit=20.0, slope=0.05, intercept=0.0, threshold=0.5),
    ),
    example={
        "event_id": "login-1",
        "ts": "2024-03-01T09:00:00Z",
        "account": "A17",
        "address": "192.0.2.17",
        "failures": 0,
        "balance": 820.5,
    },
)
