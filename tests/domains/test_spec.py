"""Laws of declaring a domain."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.features.every_feature import DOMAIN
from vigil import domains
from vigil.domains import windows as w
from vigil.domains.spec import Policy, Reason
from vigil.errors import ConfigError, NotFound


def test_every_kind_of_feature_is_in_the_domain_that_tries_them_all() -> None:
    assert {feature.op for feature in DOMAIN.features} == set(w.CODES)
    assert len(w.CODES) == len(w.KINDS)


def test_the_hash_changes_with_anything_that_changes_a_value_and_with_nothing_else() -> None:
    hashes = {DOMAIN.spec_hash}
    first = DOMAIN.features[0]
    for changed in (
        replace(DOMAIN, features=(*DOMAIN.features, w.Weekend(name="more", meaning="-"))),
        replace(DOMAIN, grace_days=0.25),
        replace(DOMAIN, numbers=(replace(DOMAIN.numbers[0], quantum=0.001),)),
        replace(DOMAIN, entities=(replace(DOMAIN.entities[0], most_records=5), DOMAIN.entities[1])),
    ):
        hashes.add(changed.spec_hash)
    assert len(hashes) == 5
    assert replace(DOMAIN, features=(replace(first, meaning="x"), *DOMAIN.features[1:])).spec_hash == DOMAIN.spec_hash
    assert replace(DOMAIN, name="another").spec_hash == DOMAIN.spec_hash


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        (w.Count(name="n", meaning="-", of_entity="c", window_days=1), "entity 'c' is not declared; there are a, b"),
        (w.Value(name="n", meaning="-", number="volume"), "number 'volume'"),
        (w.Ratio(name="n", meaning="-", numerator="f_value", denominator="later"), "earlier feature 'later'"),
        (w.Count(name="n", meaning="-", of_entity="a", window_days=0), "window_days must be > 0"),
        (w.LabelCount(name="n", meaning="-", of_entity="a", window_days=1), "at least the domain's label_delay_days 1"),
        (
            w.LabelCount(name="n", meaning="-", of_entity="a", window_days=1, delay_days=1, unexplained_by="f_ratio"),
            "a.carries",
        ),
        (w.Value(name="f_value", meaning="-", number="amount"), "declares a feature twice"),
        (w.Value(name="Bad Name", meaning="-", number="amount"), "is not a name"),
    ],
)
def test_a_feature_that_cannot_be_is_refused_with_what_there_is(feature: w.Feature, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(DOMAIN, features=(*DOMAIN.features, feature))


def test_one_part_without_its_comma_is_refused_with_what_is_wanted() -> None:
    with pytest.raises(ConfigError, match="entities: got the type Entity, wanted a tuple"):
        replace(DOMAIN, entities=DOMAIN.entities[0])


@pytest.mark.parametrize("example", [{"event_id": "1", "ts": 1_538_308_800_000}, DOMAIN.example | {"volume": 1.0}])
def test_an_example_with_other_fields_than_an_event_is_refused(example: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"example has the fields event_id, ts.*wanted event_id, ts, a, b, amount"):
        replace(DOMAIN, example=example)


def test_a_policy_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="review_at <= block_at"):
        replace(DOMAIN, policy=replace(DOMAIN.policy, review_at=0.9))
    with pytest.raises(ConfigError, match="reason odd"):
        replace(DOMAIN, policy=replace(DOMAIN.policy, reasons=(Reason("odd", "nothing", "-", above=1),)))


def test_the_policy_version_changes_with_the_policy() -> None:
    policy: Policy = DOMAIN.policy
    assert policy.version == replace(policy).version
    assert policy.version != replace(policy, review_at=0.2).version


def test_an_unknown_domain_is_refused_with_those_there_are() -> None:
    with pytest.raises(NotFound, match="payments"):
        domains.load("no_such_domain")
    with pytest.raises(ConfigError, match="defines no DOMAIN"):
        domains.load("json")
