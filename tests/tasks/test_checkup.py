"""What doctor says about where runs are."""

import pytest

from settings.effects import RegistryKnobs
from settings.model import Settings
from tasks.checkup import where_runs_are


def settings(workspace: str, tracking_uri: str | None) -> Settings:
    return Settings(workspace=workspace, registry=RegistryKnobs(tracking_uri=tracking_uri))


def test_runs_of_a_process_pool_have_the_disk_of_their_worker() -> None:
    found = where_runs_are(settings("/here", None), {"feedloop": "process"})
    assert (found.fine, found.sentence) == (True, "Processes of the workers of feedloop.")


@pytest.mark.parametrize("uri", [None, "sqlite:////here/mlflow.db"])
def test_containers_cannot_share_a_registry_in_a_file(uri: str | None) -> None:
    found = where_runs_are(settings("/here", uri), {"pods": "kubernetes"})
    assert not found.fine
    assert "The runs of pods (kubernetes) begin on an empty disk" in found.sentence
    assert "Set registry.tracking_uri to an MLflow server." in found.sentence


@pytest.mark.parametrize(("workspace", "told"), [("/here", True), ("s3://bucket/feedloop", False)])
def test_a_folder_has_to_be_a_volume_that_all_containers_mount(workspace: str, told: bool) -> None:
    found = where_runs_are(settings(workspace, "http://mlflow:5000"), {"pods": "kubernetes"})
    assert found.fine
    assert ("/here has to be a volume that all of them mount." in found.sentence) is told
    assert "Results of tasks have to be shared too" in found.sentence


def test_before_anything_is_deployed_nothing_is_wrong() -> None:
    assert where_runs_are(settings("/here", None), {}).fine
