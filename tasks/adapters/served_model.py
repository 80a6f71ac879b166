"""The file that MLflow runs to serve a bundle ("models from code").

It travels inside every logged model beside a copy of the scoring part of ``ranking``, so that a plain
``mlflow.pyfunc.load_model`` or ``mlflow models serve`` answers where feedloop is not installed.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

if TYPE_CHECKING:
    from ranking.bundle import Bundle


class ServedModel(PythonModel):
    """Click probabilities of a bundle, one per row, in the order of the rows."""

    bundle: "Bundle"

    # MLflow calls it by keyword, so the name of the argument matters.
    def load_context(self, context: Any) -> None:
        """Load the bundle, which checks every byte of it against its manifest.

        Raises:
            TamperedBundle: a file was changed since the model was logged.
        """
        from pathlib import Path

        from ranking.bundle import Bundle

        digest = (context.model_config or {})["bundle_digest"]
        self.bundle = Bundle.load(Path(context.artifacts["bundle"]), expected_digest=digest)

    # The type hint matters too: MLflow makes a schema of any other one, and warns when there is none.
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Score rows.

        Args:
            context: unused; MLflow passes it.
            model_input: rows with the model's columns.  A column that is absent counts as all null.
            params: unused; there is nothing to choose.

        Returns:
            (N,) float64 click probabilities.
        """
        del context, params
        rows = model_input.reindex(columns=list(self.bundle.encoder.columns))
        return np.asarray(self.bundle.score(rows), dtype=np.float64)


set_model(ServedModel())
