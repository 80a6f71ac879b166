"""Where the gateway keeps its things, and that nobody is told its token."""

from pathlib import Path

import pytest

from ranking.errors import SettingsError
from settings.loading import load
from settings.model import Settings


def written(folder: Path, text: str) -> Settings:
    (folder / "feedloop.toml").write_text(text)
    return load(folder / "feedloop.toml")


def test_the_log_and_the_folder_lie_in_the_workspace_unless_told_otherwise(tmp_path: Path) -> None:
    settings = written(tmp_path, "")
    assert settings.online_folder == str(tmp_path / ".feedloop" / "online")
    assert settings.gateway_folder == tmp_path / ".feedloop" / "gateway"


def test_relative_places_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    settings = written(tmp_path, '[serving]\nlog = "shown"\nfolder = "own"\n')
    assert settings.online_folder == str(tmp_path / "shown")
    assert settings.gateway_folder == tmp_path / "own"
    assert written(tmp_path, '[serving]\nlog = "s3://bucket/shown"\n').online_folder == "s3://bucket/shown"


def test_a_remote_workspace_needs_a_local_folder(tmp_path: Path) -> None:
    settings = written(tmp_path, 'workspace = "s3://bucket/feed"\n')
    with pytest.raises(SettingsError, match=r"set serving\.folder"):
        assert settings.gateway_folder


def test_the_token_comes_from_the_environment_and_shows_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEEDLOOP_SERVING__TOKEN", "open sesame")
    settings = written(tmp_path, "")
    assert settings.serving.token is not None
    assert settings.serving.token.get_secret_value() == "open sesame"
    assert "sesame" not in repr(settings)
    assert "sesame" not in settings.model_dump_json()
    monkeypatch.delenv("FEEDLOOP_SERVING__TOKEN")
    with pytest.raises(SettingsError) as wrong:
        written(tmp_path, '[serving]\ntoken = ["open sesame"]\n')
    assert "sesame" not in str(wrong.value)


def test_an_empty_token_is_a_mistake_and_not_an_open_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDLOOP_SERVING__TOKEN", "")
    with pytest.raises(SettingsError, match=r"serving\.token"):
        written(tmp_path, "")
