import traceback
from pathlib import Path

import pytest

from ranking.errors import SettingsError
from ranking.models import TwoTowerKnobs
from ranking.world import SAMPLE_COLUMNS
from settings.loading import load


def write(folder: Path, text: str) -> Path:
    file = folder / "feedloop.toml"
    file.write_text(text)
    return file


@pytest.fixture(autouse=True)
def _an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_without_a_file_every_knob_has_its_default_and_the_log_is_the_sample_feed(tmp_path: Path) -> None:
    settings = load()
    assert settings.is_sample
    assert settings.data.uri == str(tmp_path / ".feedloop/sample/interactions")
    assert settings.data.columns == SAMPLE_COLUMNS
    assert settings.data.label_delay_hours == settings.world.label_delay_hours


def test_the_environment_wins_over_the_file_and_arguments_win_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, "seed = 1\n[gate]\nmin_auc_improvement = 0.02\nmax_auc_degradation = 0.001\n")
    monkeypatch.setenv("FEEDLOOP_GATE__MIN_AUC_IMPROVEMENT", "0.03")
    monkeypatch.setenv("FEEDLOOP_SEED", "2")
    settings = load(file, seed=3)
    assert settings.gate.min_auc_improvement == 0.03
    assert settings.gate.max_auc_degradation == 0.001
    assert settings.seed == 3


def test_relative_paths_start_at_the_folder_of_the_file_wherever_the_shell_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, 'workspace = "state"\n[data]\nuri = "log.parquet"\n')
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    settings = load(file)
    assert settings.workspace == str(tmp_path / "state")
    assert settings.data.uri == str(tmp_path / "log.parquet")


def test_a_uri_is_left_as_it_is(tmp_path: Path) -> None:
    assert load(write(tmp_path, '[data]\nuri = "s3://bucket/log"\n')).data.uri == "s3://bucket/log"


def test_the_model_table_chooses_the_architecture_by_its_kind(tmp_path: Path) -> None:
    settings = load(write(tmp_path, '[model]\nkind = "two_tower"\ntower_dimension = 8\n'))
    assert isinstance(settings.model, TwoTowerKnobs)
    assert settings.model.tower_dimension == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[gate]\nmin_auc_improvment = 0.1\n", "'gate.min_auc_improvment'; did you mean 'min_auc_improvement'"),
        ("[gaet]\n", "'gaet'; did you mean 'gate'"),
        ('[data.columns]\nusr = "u"\n', "'data.columns.usr'; did you mean 'user'"),
        ('[model]\nkind = "two_tower"\ntower_dimensions = 8\n', "did you mean 'tower_dimension'"),
        ('[data.columns.user_features]\ncategoricals = ["a"]\n', "did you mean 'categorical'"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_name(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(SettingsError, match="unknown setting") as caught:
        load(write(tmp_path, text))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[data]\nwindow_days = -1\n", "data.window_days = -1"),
        ("[gate]\nmax_auc_degradation = nan\n", "gate.max_auc_degradation"),
        ('[model]\nkind = "transformer"\n', "two_tower"),
        ("seed = \n", "not valid TOML"),
    ],
)
def test_a_value_out_of_bounds_names_the_knob(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, text))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("FEEDLOOP_GAET__MIN_AUC_IMPROVEMENT", "Did you mean FEEDLOOP_GATE?"),
        ("FEEDLOOP_GATE__MIN_AUC_IMPROVMENT", "did you mean 'min_auc_improvement'"),
    ],
)
def test_a_mistyped_environment_variable_is_not_ignored(
    monkeypatch: pytest.MonkeyPatch, variable: str, expected: str
) -> None:
    monkeypatch.setenv(variable, "0.1")
    with pytest.raises(SettingsError) as caught:
        load()
    assert expected in str(caught.value)


def test_a_named_file_that_is_not_there_says_how_to_make_one() -> None:
    with pytest.raises(SettingsError, match="feedloop init"):
        load("nowhere.toml")


def test_settings_cannot_be_changed_after_loading() -> None:
    with pytest.raises(Exception, match="frozen"):
        load().seed = 1  # type: ignore[misc]


def test_the_policy_digest_follows_the_gate_and_nothing_else(tmp_path: Path) -> None:
    first = load(write(tmp_path, "seed = 1\n"))
    other_seed = load(write(tmp_path, "seed = 2\n"))
    other_gate = load(write(tmp_path, "[gate]\nmin_auc_improvement = 0.02\n"))
    assert first.policy_digest == other_seed.policy_digest
    assert first.policy_digest != other_gate.policy_digest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[registry]\nledger_uri = "mysql://ada:s3cret@db/promotions"\n',
            "registry.ledger_uri = (hidden): String should",
        ),
        ('[registry]\nledger_uri = ["postgresql://ada:s3cret@db/promotions"]\n', "registry.ledger_uri = (hidden)"),
        ('[registry]\ntracking_uri = ["http://ada:s3cret@mlflow"]\n', "registry.tracking_uri = (hidden)"),
        ('registry = "http://ada:s3cret@mlflow"\n', "registry = 'http://ada:***@mlflow'"),
        ('registry = ["http://ada:s3cret@mlflow"]\n', "registry = ['http://ada:***@mlflow']"),
        ('[registry]\ntracking_url = "http://ada:s3cret@mlflow"\n', "did you mean 'tracking_uri'"),
        ('[registry]\nmodel_name = "http://ada:s3cret@mlflow"\n', "registry.model_name = 'http://ada:***@mlflow'"),
    ],
)
def test_a_password_in_a_wrong_knob_is_told_neither_in_the_message_nor_in_the_traceback(
    tmp_path: Path, text: str, expected: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, text))
    assert expected in str(caught.value)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_addresses_of_the_registry_do_not_show_in_a_repr(tmp_path: Path) -> None:
    addresses = 'tracking_uri = "http://ada:s3cret@mlflow"\nledger_uri = "postgresql://ada:s3cret@db/promotions"\n'
    settings = load(write(tmp_path, f"[registry]\n{addresses}"))
    assert settings.registry.ledger_uri == "postgresql://ada:s3cret@db/promotions"
    assert "s3cret" not in f"{settings!r} {settings} {settings.registry!r} {settings.store}"
    assert "model_name" in repr(settings.registry)


def test_a_stage_of_interleaving_keeps_the_rest_of_the_sample_feeds_test(tmp_path: Path) -> None:
    file = tmp_path / "feedloop.toml"
    file.write_text('[rollout.ab_test]\ninterleaving = {name = "mixed lists"}\n')
    test = load(file).rollout.ab_test
    assert [stage.name for stage in test.stages()] == ["10 %", "mixed lists", "A/B test"]
    assert (test.experiment.weeks, test.experiment.min_users_per_arm) == (1, 400)
