"""What is known of serving before anybody is asked: parity, odd requests, latency and size, from one clean process.

Whatever goes wrong with the model becomes part of the answer: it is evidence, and the gate rejects on it.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranking.errors import BundleError
from ranking.measurements import Costs
from ranking.results import ModelRef, ServingCheck
from tasks.adapters.clean_process import ask_in_clean_process
from tasks.adapters.mlflow_package import BUNDLE_FOLDER, GOLDEN_SCORE, model_rows
from tasks.adapters.registry import Registry
from tasks.adapters.serving_check import TOLERANCE, verified_package
from tasks.adapters.storage import temporary_folder

if TYPE_CHECKING:
    import pandas as pd

    from ranking.bundle import Bundle

SAMPLED_ROWS = 512
"""Most holdout rows that are asked besides the golden ones."""

CANDIDATES = 100
"""Rows of the request whose latency is measured."""

REQUESTS, WARM_UP, ROUNDS = 100, 10, 3
"""Requests timed one after the other in each round, and those before all rounds that are not."""

NEVER_SEEN = "an id that no log holds"

# Everything is asked by one process: a start costs seconds, a question milliseconds.
_CHILD = """
import json, os, sys, time
os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when it is imported; more threads wait for busy cores
import mlflow.pyfunc
import pandas as pd
package, folder = sys.argv[1:]
with open(f"{folder}/plan.json") as file:
    plan = json.load(file)
model = mlflow.pyfunc.load_model(package)
answers = {}
for name, file in plan["questions"].items():
    try:
        answers[name] = [float(score) for score in model.predict(pd.read_parquet(f"{folder}/{file}"))]
    except Exception as error:
        answers[name] = f"{type(error).__name__}: {error}"
request, seconds = pd.read_parquet(f"{folder}/request.parquet"), []
for number in range(plan["warm_up"] + plan["requests"]):
    started = time.perf_counter()
    try:
        model.predict(request)
    except Exception:  # why it fails is among the answers above; its latency stays unmeasured
        break
    seconds.append(time.perf_counter() - started)
with open(f"{folder}/answers.json", "w") as file:
    json.dump({"scores": answers, "seconds": seconds[plan["warm_up"]:]}, file)
"""


@dataclass(frozen=True)
class Question:
    """Rows to score, and the scores (N,) that they must get."""

    name: str
    rows: "pd.DataFrame"
    expected: tuple[float, ...]


def measure_serving(
    registry: Registry, ref: ModelRef, sample: "Callable[[Bundle], pd.DataFrame]", *, rows: int = SAMPLED_ROWS
) -> ServingCheck:
    """Ask a registered version through MLflow alone, in a clean process, what its bundle answers here.

    Asked are its golden requests, sampled rows, and requests that production will make sooner or later:
    ids never seen, nothing but nulls, one row, no row.  The digests are checked first: a model that was
    tampered with does not run.

    Args:
        registry: where it is.
        ref: the version.
        sample: gives rows of the holdout with the columns of that bundle.
        rows: most sampled rows.

    Returns:
        What was found, passed or not; a model that cannot be used is a finding and no error.

    Raises:
        RegistryUnavailable: no answer.
        StorageError: there is no room to do it.
    """
    from ranking.bundle import Bundle

    costs, counted = Costs(), {"golden_rows": 0, "sampled_rows": 0}
    with temporary_folder() as folder:
        try:
            package, golden = verified_package(registry, ref, folder)
            costs = Costs(size_megabytes=_megabytes(package / BUNDLE_FOLDER))
            bundle = Bundle.load(package / BUNDLE_FOLDER, expected_digest=ref.digest)
            sampled = model_rows(bundle, sample(bundle), most=rows)
            counted = {"golden_rows": len(golden), "sampled_rows": len(sampled)}
            questions = _questions(bundle, golden, sampled)
            scores, seconds = _asked(ref, package, questions, _request(sampled), folder)
            costs = costs.model_copy(update={"latency_p99_milliseconds": _p99_milliseconds(seconds)})
            worst = max(_judged(ref, question, scores[question.name]) for question in questions)
        except BundleError as error:
            return ServingCheck(passed=False, reason=str(error), costs=costs, **counted)
    edge_cases = tuple(question.name for question in questions[2:])
    return ServingCheck(
        passed=True,
        reason=f"Loaded by MLflow alone in a clean process, version {ref.version} answered {len(golden)} golden and "
        f"{len(sampled)} holdout rows as in training (largest difference {worst:.1g}, {TOLERANCE:g} is allowed), and "
        f"{', '.join(edge_cases[:-1])} and {edge_cases[-1]} sensibly.",
        worst_difference=worst,
        edge_cases=edge_cases,
        costs=costs,
        **counted,
    )


def _questions(bundle: "Bundle", golden: "pd.DataFrame", sampled: "pd.DataFrame") -> list[Question]:
    """What is asked, with the answers: of the golden rows those of then, of all others those of the bundle now."""
    asked = golden.drop(columns=[GOLDEN_SCORE])
    ids = [vocabulary.name for vocabulary in bundle.encoder.vocabularies]
    unseen = sampled.head(2).astype(dict.fromkeys(ids, "object")).assign(**dict.fromkeys(ids, NEVER_SEEN))
    nulls = sampled.head(2).astype("object").assign(**dict.fromkeys(sampled.columns, None))
    nulls = nulls.astype({scaler.name: "float64" for scaler in bundle.encoder.scalers})
    others = {
        "holdout rows": sampled,
        "ids never seen": unseen,
        "nothing but nulls": nulls,
        "one row": sampled.head(1),
        "no row": sampled.head(0),
    }
    return [
        Question("golden rows", asked, tuple(golden[GOLDEN_SCORE].tolist())),
        *(Question(name, rows, tuple(bundle.score(rows).tolist())) for name, rows in others.items()),
    ]


def _request(sampled: "pd.DataFrame") -> "pd.DataFrame":
    """``CANDIDATES`` rows, repeated where the holdout has fewer."""
    import numpy as np

    return sampled.iloc[np.arange(CANDIDATES) % len(sampled)].reset_index(drop=True)


def _asked(
    ref: ModelRef, package: Path, questions: list[Question], request: "pd.DataFrame", folder: Path
) -> tuple[dict[str, Any], list[float]]:
    """The answer to each question, or in words why there is none, and the seconds of each timed request."""
    files = {question.name: f"question{number}.parquet" for number, question in enumerate(questions)}
    for question in questions:
        question.rows.to_parquet(folder / files[question.name], index=False)
    request.to_parquet(folder / "request.parquet", index=False)
    plan = {"questions": files, "requests": ROUNDS * REQUESTS, "warm_up": WARM_UP}
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    ask_in_clean_process(ref, _CHILD, (package, folder), folder)
    answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    return answers["scores"], answers["seconds"]


def _judged(ref: ModelRef, question: Question, scores: list[float] | str) -> float:
    """The largest difference from the expected scores; 0 without rows.

    Raises:
        BundleError: no answer, another number of scores, no click probabilities, or other scores.
    """
    who = f"Version {ref.version} of {ref.name!r}, asked {question.name} through MLflow in a clean process,"
    if isinstance(scores, str):
        raise BundleError(f"{who} failed with {scores} It is not fit to serve; register the model again.")
    if len(scores) != len(question.expected):
        raise BundleError(f"{who} gave {len(scores)} scores for {len(question.expected)} rows. It is not fit to serve.")
    odd = [score for score in scores if not 0 <= score <= 1]  # NaN is no probability either
    if odd:
        raise BundleError(
            f"{who} gave {len(odd)} of {len(scores)} scores that are no probabilities, such as {odd[0]:g}. "
            "It is not fit to serve; train again."
        )
    worst = max((abs(new - old) for new, old in zip(scores, question.expected, strict=True)), default=0.0)
    if not worst <= TOLERANCE:
        raise BundleError(
            f"{who} differs by {worst:.2g} from the scores it should give ({TOLERANCE:g} is allowed). "
            "It is not fit to serve; register the model again."
        )
    return worst


def _p99_milliseconds(seconds: list[float]) -> float | None:
    """99th percentile of the quietest round; None when requests failed.

    Neighbours on a busy machine only make a round slower, so the quietest says most about the model.
    """
    if len(seconds) < ROUNDS * REQUESTS:
        return None
    rounds = [sorted(seconds[start : start + REQUESTS]) for start in range(0, len(seconds), REQUESTS)]
    return round(1000 * min(timed[math.ceil(0.99 * REQUESTS) - 1] for timed in rounds), 3)


def _megabytes(bundle: Path) -> float:
    return sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file()) / 1e6
