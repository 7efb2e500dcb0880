from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

import model_store
from vigil.errors import InvalidInput, ModelRefused, NotFound


def test_saving_moves_the_champion_and_rollback_moves_it_back(store_model: Callable[..., str]) -> None:
    first, second = store_model(b"one"), store_model(b"two")
    assert model_store.aliases("tills") == {"champion": second}
    assert model_store.rollback("tills", "champion") == first
    assert model_store.resolve("tills", "champion").manifest.version == first


def test_promoting_twice_is_one_step_back(store_model: Callable[..., str]) -> None:
    first, second = store_model(b"one"), store_model(b"two")
    model_store.promote("tills", second)
    model_store.promote("tills", second)
    assert model_store.rollback("tills") == first


def test_there_is_nothing_before_the_first(store_model: Callable[..., str]) -> None:
    version = store_model()
    with pytest.raises(NotFound, match=f"means {version} and there is no earlier version"):
        model_store.rollback("tills")
    assert model_store.aliases("tills") == {"champion": version}


def test_aliases_do_not_move_each_other(store_model: Callable[..., str]) -> None:
    first, second = store_model(b"one"), store_model(b"two", alias="challenger")
    assert model_store.aliases("tills") == {"champion": first, "challenger": second}
    model_store.promote("tills", "challenger")
    assert model_store.resolve("tills", "champion").manifest.version == second


def test_a_changed_file_is_not_promoted(store_model: Callable[..., str]) -> None:
    first, second = store_model(b"one"), store_model(b"two", alias=None)
    model_store.resolve("tills", second).onnx_path.write_bytes(b"twp")
    with pytest.raises(ModelRefused):
        model_store.promote("tills", second)
    assert model_store.aliases("tills") == {"champion": first}


def test_rollback_leads_away_from_a_version_whose_manifest_is_broken(store_model: Callable[..., str]) -> None:
    first, second = store_model(b"one"), store_model(b"two")
    (model_store.resolve("tills", second).path / "manifest.json").write_text("{")
    with pytest.raises(ModelRefused):
        model_store.resolve("tills")
    assert model_store.rollback("tills") == first
    assert model_store.resolve("tills").manifest.version == first


def test_with_an_alias_that_cannot_be_one_nothing_is_stored(store_model: Callable[..., str]) -> None:
    with pytest.raises(InvalidInput):
        store_model(alias="latest")
    assert model_store.list_models() == []


@pytest.mark.parametrize("alias", ["latest", "", "Champion", "../x", "a" * 33])
def test_an_alias_that_cannot_be_one_is_refused(store_model: Callable[..., str], alias: str) -> None:
    version = store_model()
    with pytest.raises(InvalidInput, match="alias"):
        model_store.set_alias("tills", alias, version)


def test_aliases_set_at_the_same_time_are_all_kept(store_model: Callable[..., str]) -> None:
    version = store_model()
    names = [f"canary-{i}" for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda alias: model_store.set_alias("tills", alias, version), names))
    assert set(model_store.aliases("tills")) == {"champion", *names}
