import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ranking.bundle import ENCODER, FACTS, MANIFEST, SCORE_ROWS, WEIGHTS, Bundle
from ranking.errors import BundleError, StorageError, TamperedBundle
from ranking.models import TwoTowerKnobs
from tests.privileges import as_nobody
from tests.ranking.small_log import WEEK, click_log, fitted


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return fitted().bundle


@pytest.fixture
def saved(bundle, tmp_path) -> Path:
    bundle.save(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.parametrize("model", [None, TwoTowerKnobs()], ids=["deep_mlp", "two_tower"])
def test_a_loaded_bundle_is_the_saved_one(model, tmp_path):
    original = fitted(500, model=model).bundle
    digest = original.save(tmp_path / "bundle")
    back = Bundle.load(tmp_path / "bundle", expected_digest=digest)
    np.testing.assert_array_equal(back.score(click_log(300)), original.score(click_log(300)))
    assert back.digest == original.digest == digest
    assert back.facts == original.facts
    assert back.facts.learnt == WEEK


def test_a_bundle_is_four_files_without_a_pickle(saved):
    assert sorted(path.name for path in saved.iterdir()) == [ENCODER, MANIFEST, WEIGHTS, FACTS]
    for name in (ENCODER, MANIFEST, FACTS):
        json.loads((saved / name).read_text())


@pytest.mark.parametrize("name", [WEIGHTS, ENCODER, FACTS])
def test_one_changed_byte_is_found_and_its_file_named(saved, name):
    content = bytearray((saved / name).read_bytes())
    content[-2] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(TamperedBundle, match=rf"{name} has the sha256 .* its manifest says"):
        Bundle.load(saved)


@pytest.mark.parametrize("name", [WEIGHTS, ENCODER, FACTS])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(TamperedBundle, match=f"{name} is missing"):
        Bundle.load(saved)


def test_a_surplus_file_is_refused(saved):
    (saved / "extra.py").write_text("")
    with pytest.raises(TamperedBundle, match=r"extra\.py is not in the manifest"):
        Bundle.load(saved)


def test_files_of_two_bundles_do_not_make_one(saved, tmp_path):
    fitted(500, seed=1).bundle.save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / WEIGHTS, saved / WEIGHTS)
    with pytest.raises(TamperedBundle, match=WEIGHTS):
        Bundle.load(saved)


def test_a_whole_bundle_that_is_not_the_expected_one_is_refused(bundle, saved):
    with pytest.raises(TamperedBundle, match=rf"has the digest {bundle.digest}, and 0000 was expected"):
        Bundle.load(saved, expected_digest="0000")


def test_another_format_is_refused(saved):
    manifest = json.loads((saved / MANIFEST).read_text())
    (saved / MANIFEST).write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(BundleError, match="reads bundles of format 1"):
        Bundle.load(saved)


def test_parts_that_verify_but_do_not_fit_together_are_refused(bundle, saved):
    # An attacker who rewrites the manifest passes its own check; the parts must still fit.
    facts = bundle.facts.model_copy(update={"architecture": TwoTowerKnobs()})
    Bundle(net=bundle.net, encoder=bundle.encoder, facts=facts).save(saved.parent / "odd")
    with pytest.raises(BundleError, match=rf"{WEIGHTS} cannot be used"):
        Bundle.load(saved.parent / "odd")


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="is no bundle"):
        Bundle.load(tmp_path)


def test_a_bundle_does_not_overwrite_what_is_there(bundle, saved):
    with pytest.raises(StorageError, match="does not exist yet"):
        bundle.save(saved)
    assert Bundle.load(saved).digest == bundle.digest
    assert [path.name for path in saved.parent.iterdir()] == ["bundle"]


def test_a_disk_that_fills_up_leaves_nothing(bundle, tmp_path, monkeypatch):
    write_bytes = Path.write_bytes

    def fails_at_the_manifest(path, content):
        if path.name == MANIFEST:
            raise OSError(28, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", fails_at_the_manifest)
    with pytest.raises(StorageError, match="No space left on device"):
        bundle.save(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_place_of_a_file_is_a_storage_error(bundle, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written"):
        bundle.save(tmp_path / "file" / "bundle")


def test_scores_are_probabilities_one_per_row(bundle):
    scores = bundle.score(click_log(700, seed=5))
    assert scores.shape == (700,)
    assert scores.dtype == np.float64
    assert 0 < scores.min() < scores.max() < 1


def test_a_rows_score_does_not_depend_on_its_neighbours_or_its_place(bundle):
    log = click_log(200, seed=5)
    scores = bundle.score(log)
    order = np.random.default_rng(0).permutation(200)
    np.testing.assert_allclose(bundle.score(log.take(order)), scores[order], atol=1e-6)
    np.testing.assert_allclose([bundle.score(log.slice(place, 1))[0] for place in range(20)], scores[:20], atol=1e-6)


def test_long_tables_are_scored_in_parts_like_whole_ones(bundle):
    log = click_log(300, seed=5)
    many = pa.concat_tables([log] * (SCORE_ROWS // 300 + 2))
    np.testing.assert_allclose(bundle.score(many)[-300:], bundle.score(log), atol=1e-6)


def test_no_rows_have_no_scores(bundle):
    log = click_log(10)
    assert bundle.score(log.slice(0, 0)).shape == (0,)
    assert bundle.score(log.to_pandas().iloc[:0]).shape == (0,)


def test_pandas_json_and_arrow_rows_score_alike(bundle):
    log = click_log(50, seed=5)
    expected = bundle.score(log)
    frame = log.drop_columns(["timestamp", "click"]).to_pandas()
    np.testing.assert_allclose(bundle.score(frame), expected, atol=1e-9)
    as_json = json.loads(frame.to_json(orient="records"))
    np.testing.assert_allclose(bundle.score(pd.DataFrame(as_json)), expected, atol=1e-6)


def test_a_column_of_mixed_json_values_is_read_value_by_value(bundle):
    frame = click_log(4).drop_columns(["timestamp", "click"]).to_pandas()
    mixed = frame.assign(item_id=pd.Series([3, "3", 3.0, None], dtype=object))
    alone = [bundle.score(frame.assign(item_id=[value] * 4))[place] for place, value in enumerate([3, "3", 3.0])]
    np.testing.assert_allclose(bundle.score(mixed)[:3], alone, atol=1e-9)


def test_unseen_users_items_and_nulls_are_scored(bundle):
    log = click_log(3)
    for name in bundle.encoder.columns:
        place = log.column_names.index(name)
        log = log.set_column(place, name, pa.nulls(3))
    assert ((bundle.score(log) > 0) & (bundle.score(log) < 1)).all()


def test_a_missing_column_is_named_at_score_time(bundle):
    with pytest.raises(BundleError, match="item_genre"):
        bundle.score(click_log(3).drop_columns(["item_genre"]))


def test_scoring_loads_none_of_the_training_libraries():
    program = (
        "import sys, ranking.bundle\n"
        "heavy = {'lightning', 'sklearn', 'scipy', 'ibis', 'pandera', 'mlflow', 'prefect', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_a_folder_that_may_not_be_written_is_a_storage_error(bundle, tmp_path):
    tmp_path.chmod(0o500)
    with as_nobody(), pytest.raises(StorageError, match="Permission denied"):
        bundle.save(tmp_path / "bundle")
