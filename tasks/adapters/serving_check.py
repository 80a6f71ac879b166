"""Does a registered version really serve?  Asked the way a third party would: MLflow alone, in a clean process."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ranking.errors import BundleError
from ranking.results import ModelRef
from tasks.adapters.clean_process import ask_in_clean_process
from tasks.adapters.mlflow_package import BUNDLE_FOLDER, GOLDEN_SCORE, read_golden
from tasks.adapters.registry import Registry
from tasks.adapters.storage import temporary_folder

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

TOLERANCE = 1e-6
"""Largest difference between two scores of one row that still counts as the same answer."""

_CHILD = """
import json, sys
import mlflow.pyfunc
import pandas as pd
package, rows, answer = sys.argv[1:]
model = mlflow.pyfunc.load_model(package)
scores = [float(score) for score in model.predict(pd.read_parquet(rows))]
with open(answer, "w") as file:
    json.dump(scores, file)
"""


def verify_bundle(registry: Registry, ref: ModelRef) -> None:
    """Fetch a version, check its digest, and repeat its golden requests.  Takes well under a second.

    Raises:
        TamperedBundle: the bytes are not those that were registered.
        BundleError: it does not answer as it did when it was trained.
    """
    with temporary_folder() as folder:
        verified_package(registry, ref, folder)


def verify_serving(registry: Registry, ref: ModelRef) -> None:
    """:func:`verify_bundle`, and then the same requests to plain MLflow in a clean process.

    The digests are checked first: a model that was tampered with must not run, not even to be tested.

    Raises:
        TamperedBundle: the bytes are not those that were registered.
        BundleError: it does not load, or does not answer as it did when it was trained.
    """
    with temporary_folder() as folder:
        package, golden = verified_package(registry, ref, folder)
        _compare(ref, "MLflow in a clean process", _serve(ref, package, golden, folder), golden[GOLDEN_SCORE])


def verified_package(registry: Registry, ref: ModelRef, folder: Path) -> "tuple[Path, pd.DataFrame]":
    """A version's package and its golden requests, which its bundle answers in this process as in training.

    Raises:
        TamperedBundle: the bytes are not those that were registered.
        BundleError: it does not answer as it did when it was trained.
    """
    from ranking.bundle import Bundle

    package = registry.package(ref, folder)
    golden = read_golden(package)
    bundle = Bundle.load(package / BUNDLE_FOLDER, expected_digest=ref.digest)
    _compare(ref, "its bundle", bundle.score(golden), golden[GOLDEN_SCORE])
    return package, golden


def _serve(ref: ModelRef, package: Path, golden: "pd.DataFrame", folder: Path) -> "np.ndarray":
    import numpy as np

    questions, answers = folder / "rows.parquet", folder / "scores.json"
    golden.drop(columns=[GOLDEN_SCORE]).to_parquet(questions, index=False)
    ask_in_clean_process(ref, _CHILD, (package, questions, answers), folder)
    return np.asarray(json.loads(answers.read_text(encoding="utf-8")), dtype=np.float64)


def _compare(ref: ModelRef, who: str, scores: "np.ndarray", golden: "pd.Series[float]") -> None:
    if len(scores) != len(golden):
        raise BundleError(
            f"Version {ref.version} of {ref.name!r}, asked through {who}, gave {len(scores)} scores for "
            f"{len(golden)} rows. It is not fit to serve."
        )
    worst = float(abs(scores - golden.to_numpy()).max())
    if not worst <= TOLERANCE:  # written so that NaN fails too
        raise BundleError(
            f"Version {ref.version} of {ref.name!r}, asked through {who}, differs by {worst:.2g} from the scores "
            f"it had in training ({TOLERANCE:g} is allowed). It is not fit to serve; register the model again."
        )
