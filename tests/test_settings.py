"""Laws of the settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from vigil import settings
from vigil.cli import app
from vigil.errors import ConfigError


def test_settings_come_from_prefixed_keys_and_have_defaults() -> None:
    found = settings.load({"VIGIL_GRPC_PORT": "4001", "HOME": "/root"})
    assert found.grpc_port == 4001
    assert found.state_url == "memory:"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("VIGIL_GRPC_PRT", "1", "no such setting; there are .*VIGIL_GRPC_PORT"),
        ("VIGIL_GRPC_PORT", "many", "VIGIL_GRPC_PORT='many'.*integer"),
        ("VIGIL_GRPC_PORT", "70000", "VIGIL_GRPC_PORT='70000'.*65535"),
        ("VIGIL_STATE_URL", "mysql://x", "VIGIL_STATE_URL='mysql://x'"),
    ],
)
def test_a_typo_or_a_bad_value_stops_the_start_naming_key_and_value(key: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings.load({key: value})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        settings.load({}).grpc_port = 1  # type: ignore[misc]


def test_every_setting_is_documented_with_its_default() -> None:
    document = (Path(__file__).parent.parent / "docs" / "settings.md").read_text()
    for name, field in settings.Settings.model_fields.items():
        assert f"| `{settings.PREFIX}{name.upper()}` | `{field.default}` | {field.description} |" in document


SECRETS = [
    ("VIGIL_STATE_URL", "redis://u:hunter2@h:1/0?x=hunter2"),
    ("VIGIL_STATE_URL", "http://u:hunter2@h"),
    ("VIGIL_STATE_URL", "redis://:hunter2@h ost"),
    ("VIGIL_STATE_URL", "hunter2"),
    ("VIGIL_CLIENT_KEY", "hunter2"),
]


@pytest.mark.parametrize(("key", "value"), SECRETS)
def test_no_secret_is_in_any_message(key: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = ""
    try:
        said = f"{settings.load({key: value})!r}"
    except ConfigError as failure:
        said = str(failure)
    assert "hunter2" not in said
    for name in ("VIGIL_STATE_URL", "VIGIL_STATE_DIR", "VIGIL_CLIENT_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VIGIL_STATE_DIR", str(tmp_path))
    monkeypatch.setenv(key, value)
    assert "hunter2" not in CliRunner().invoke(app, ["doctor"]).output


def test_a_secret_can_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://:hunter2@h:6379/0\n")
    assert settings.load({"VIGIL_STATE_URL": f"@{tmp_path / 'url'}"}).state_url == "redis://:hunter2@h:6379/0"
    with pytest.raises(ConfigError, match=r"VIGIL_CLIENT_KEY='@/none': .*wanted a file that can be read"):
        settings.load({"VIGIL_CLIENT_KEY": "@/none"})
