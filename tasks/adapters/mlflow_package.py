"""A bundle as an MLflow model: code, bytes, signature and requirements in one folder, no pickle."""

import ast
import hashlib
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ranking.errors import RegistryError
from ranking.values import digest

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import Model, ModelSignature

    from ranking.bundle import Bundle

SERVED_WITH = ("torch", "numpy", "pandas", "pyarrow", "safetensors", "pydantic")
"""Everything that scoring imports; written down because letting MLflow infer it takes 12 to 32 s."""

BUNDLE_FOLDER = "artifacts/bundle"
GOLDEN_FILE = "artifacts/golden.parquet"
GOLDEN_SCORE = "__score"
GOLDEN_ROWS = 32
_SCORING_MODULE = "ranking.bundle"


@dataclass(frozen=True)
class Contents:
    """What goes into a package.

    ``sample`` is a few rows as the model meets them in production: they become the input example and,
    with their scores, the golden requests that a promotion repeats.
    """

    bundle_folder: Path
    bundle: "Bundle"
    digest: str
    sample: "pd.DataFrame"


def write_package(folder: Path, contents: Contents, model: "Model") -> str:
    """Write the MLflow model of a bundle.

    Args:
        folder: where to write; must not exist.
        contents: the bundle and its sample rows.
        model: MLflow's description of the model, with its id.

    Returns:
        The digest of everything that was written.

    Raises:
        RegistryError: there are no sample rows.
    """
    import mlflow.pyfunc

    rows = model_rows(contents.bundle, contents.sample)
    staging = folder.with_name(f"{folder.name}-staging")
    staging.mkdir(parents=True)
    # MLflow keeps an artifact under the name of its folder, whatever it is called here.
    shutil.copytree(contents.bundle_folder, staging / "bundle")
    golden = staging / "golden.parquet"
    rows.assign(**{GOLDEN_SCORE: contents.bundle.score(rows)}).to_parquet(golden, index=False)
    mlflow.pyfunc.save_model(
        path=str(folder),
        mlflow_model=model,
        python_model=str(Path(__file__).with_name("served_model.py")),
        code_paths=[str(copy_scoring_code(staging))],
        artifacts={"bundle": str(staging / "bundle"), "golden": str(golden)},
        model_config={"bundle_digest": contents.digest},
        signature=signature(contents.bundle),
        input_example=rows.head(2),
        pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in SERVED_WITH],
    )
    shutil.rmtree(staging)
    return package_digest(folder)


def package_digest(folder: Path) -> str:
    """Hex sha256 over the names and contents of all files of a package.

    What MLflow leaves beside a model when it loads one in place is deleted first: its note on the
    version, and compiled Python, which would run instead of the code that the digest covers.
    """
    for cache in list(folder.rglob("__pycache__")):
        shutil.rmtree(cache)
    (folder / "registered_model_meta").unlink(missing_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest({str(PurePosixPath(path.relative_to(folder))): _sha256(path) for path in files})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_golden(package: Path) -> "pd.DataFrame":
    """The golden requests of a verified package, with the scores they had in training as ``__score``."""
    import pandas as pd

    return pd.read_parquet(package / GOLDEN_FILE)


def model_rows(bundle: "Bundle", sample: "pd.DataFrame", most: int = GOLDEN_ROWS) -> "pd.DataFrame":
    """The columns the model reads, in its order, as its signature asks for them; the first ``most`` rows."""
    if sample.empty:
        raise RegistryError("A model is registered with a few sample rows, and there are 0. Pass rows of the holdout.")
    rows = sample.head(most).reindex(columns=list(bundle.encoder.columns)).reset_index(drop=True)
    return rows.astype({scaler.name: "float64" for scaler in bundle.encoder.scalers})


def signature(bundle: "Bundle") -> "ModelSignature":
    """What the model reads and answers.

    Numbers are ``double``.  Ids and categories are of any type: MLflow's ``long`` would refuse a null
    and an unknown text id before the model could answer them, and the encoder reads 3, 3.0 and "3"
    as the same value.  No column is required, as a missing one is answered like null.
    """
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, DataType, Schema

    encoder = bundle.encoder
    anything = AnyType()  # type: ignore[no-untyped-call]  # MLflow's own omission
    ids = [ColSpec(anything, vocabulary.name, required=False) for vocabulary in encoder.vocabularies]
    numbers = [ColSpec(DataType.double, scaler.name, required=False) for scaler in encoder.scalers]
    return ModelSignature(inputs=Schema([*ids, *numbers]), outputs=Schema([ColSpec(DataType.double)]))


def copy_scoring_code(folder: Path) -> Path:
    """Copy the part of ``ranking`` that scoring imports; returns the package's new folder.

    Followed through the import statements, so that a new module needs no list to be kept.
    """
    import ranking

    source = Path(ranking.__file__).parent
    target = folder / "ranking"
    for file in sorted(_imported(source, _SCORING_MODULE)):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return target


def _imported(source: Path, module: str) -> set[Path]:
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        for file in _files(source, waiting.pop()) - found:
            found.add(file)
            waiting += _imports(ast.parse(file.read_text(encoding="utf-8")))
    return found


def _files(source: Path, module: str) -> set[Path]:
    """The module's file and the ``__init__`` of every package above it; nothing if it is not a module."""
    parts = module.split(".")
    if parts[0] != source.name:
        return set()
    inits = {source.joinpath(*parts[1:end], "__init__.py") for end in range(1, len(parts) + 1)}
    return {file for file in (*inits, source.joinpath(*parts[1:]).with_suffix(".py")) if file.is_file()}


def _imports(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names
