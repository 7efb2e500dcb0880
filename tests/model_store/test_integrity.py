from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest

import model_store
from vigil.domains.spec import Domain
from vigil.errors import ModelRefused


def test_an_untouched_model_passes(store_model: Callable[..., str], domain: Domain) -> None:
    store_model()
    model_store.verify(model_store.resolve("tills"), domain)


def test_one_flipped_bit_is_refused_with_both_digests(store_model: Callable[..., str], domain: Domain) -> None:
    content = bytes(range(256))
    store_model(content)
    stored = model_store.resolve("tills")
    flipped = bytes([content[0] ^ 1]) + content[1:]
    stored.onnx_path.write_bytes(flipped)
    with pytest.raises(ModelRefused) as refused:
        model_store.verify(stored, domain)
    assert hashlib.sha256(content).hexdigest() in str(refused.value)
    assert hashlib.sha256(flipped).hexdigest() in str(refused.value)


def test_another_feature_spec_is_refused_with_both_hashes(store_model: Callable[..., str], domain: Domain) -> None:
    store_model()
    other = replace(domain, grace_days=2.0)
    with pytest.raises(ModelRefused) as refused:
        model_store.verify(model_store.resolve("tills"), other)
    assert domain.spec_hash in str(refused.value)
    assert other.spec_hash in str(refused.value)


def test_a_model_copied_over_another_is_refused(store_model: Callable[..., str], domain: Domain) -> None:
    first, second = (model_store.resolve("tills", store_model(content)).path for content in (b"one", b"two"))
    shutil.copytree(first, second, dirs_exist_ok=True)
    with pytest.raises(ModelRefused, match=f"{second.name}: its manifest says tills:{first.name}"):
        model_store.verify(model_store.resolve("tills", second.name), domain)


def test_a_missing_file_is_refused_by_name(store_model: Callable[..., str], domain: Domain) -> None:
    store_model()
    stored = model_store.resolve("tills")
    stored.onnx_path.unlink()
    with pytest.raises(ModelRefused, match=r"model\.onnx"):
        model_store.verify(stored, domain)


def test_a_manifest_from_before_risks_were_looked_at_is_read(store_model: Callable[..., str], domain: Domain) -> None:
    store_model()
    path = model_store.resolve("tills").path / "manifest.json"
    told = json.loads(path.read_bytes())
    path.write_text(json.dumps({key: told[key] for key in told if not key.startswith("risk_")}))
    model_store.verify(model_store.resolve("tills"), domain)


@pytest.mark.parametrize("change", [{"created": "yesterday"}, {"created": None}, {"seed": 7}])
def test_a_manifest_with_what_cannot_be_is_refused(store_model: Callable[..., str], change: dict[str, object]) -> None:
    store_model()
    path = model_store.resolve("tills").path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    with pytest.raises(ModelRefused, match=next(iter(change))):
        model_store.resolve("tills")


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_manifest_that_cannot_be_read_is_refused(store_model: Callable[..., str], text: str) -> None:
    store_model()
    (model_store.resolve("tills").path / "manifest.json").write_text(text)
    with pytest.raises(ModelRefused, match=r"manifest\.json"):
        model_store.resolve("tills")
