"""A bundle as an MLflow model: code, bytes, signature and requirements in one folder, no pickle."""

import ast
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ranking.errors import RegistryError

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


def write_package(
    folder: Path, bundle_folder: Path, bundle: "Bundle", digest: str, sample: "pd.DataFrame", model: "Model"
) -> None:
    """Write the MLflow model of a bundle into ``folder``.

    Args:
        folder: where to write; must not exist.
        bundle_folder: the saved bundle.
        bundle: the same, loaded.
        digest: its manifest digest; the model refuses to load any other.
        sample: a few rows as the model meets them in production; kept as the input example and, with
            their scores, as the golden requests that a promotion repeats.
        model: MLflow's description of the model, with its id.

    Raises:
        RegistryError: ``sample`` has no rows.
    """
    import mlflow.pyfunc

    rows = model_rows(bundle, sample)
    staging = folder.with_name(f"{folder.name}-staging")
    staging.mkdir(parents=True)
    golden = staging / "golden.parquet"
    rows.assign(**{GOLDEN_SCORE: bundle.score(rows)}).to_parquet(golden, index=False)
    mlflow.pyfunc.save_model(
        path=str(folder),
        mlflow_model=model,
        python_model=str(Path(__file__).with_name("served_model.py")),
        code_paths=[str(copy_scoring_code(staging))],
        artifacts={"bundle": str(bundle_folder), "golden": str(golden)},
        model_config={"bundle_digest": digest},
        signature=signature(bundle),
        input_example=rows.head(2),
        pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in SERVED_WITH],
    )
    shutil.rmtree(staging)


def model_rows(bundle: "Bundle", sample: "pd.DataFrame") -> "pd.DataFrame":
    """The columns the model reads, in its order, as its signature asks for them."""
    if sample.empty:
        raise RegistryError("A model is registered with a few sample rows, and there are 0. Pass rows of the holdout.")
    rows = sample.head(GOLDEN_ROWS).reindex(columns=list(bundle.encoder.columns)).reset_index(drop=True)
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
    inputs = [ColSpec(AnyType(), vocabulary.name, required=False) for vocabulary in encoder.vocabularies]
    inputs += [ColSpec(DataType.double, scaler.name, required=False) for scaler in encoder.scalers]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([ColSpec(DataType.double)]))


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
