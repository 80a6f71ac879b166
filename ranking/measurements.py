"""What a comparison is made of: estimates, both models' scores and pictures, and what serving costs."""

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from ranking.values import Value


class Estimate(Value):
    """A number and what is known of its error.  ``se`` and bounds are ``None`` when not measurable."""

    value: float
    se: NonNegativeFloat | None = None
    low: float | None = None
    high: float | None = None


class MetricComparison(Value):
    """One metric for both models and for the difference challenger - champion.

    ``None`` means not measured (with the reason in ``note``), and nothing measured is never fine.
    """

    name: str
    higher_is_better: bool | None = Field(description="None for a metric with a target, such as predicted/actual.")
    champion: Estimate | None
    challenger: Estimate | None
    difference: Estimate | None
    note: str = ""


class Curve(Value):
    """Points of one line of a picture."""

    x: tuple[float, ...]
    y: tuple[float, ...]


class ScoreHealth(Value):
    """What one model's scores look like, before anything is measured with them."""

    missing: NonNegativeInt = Field(description="Rows with NaN or infinite scores.")
    outside: NonNegativeInt = Field(description="Rows with scores below 0 or above 1.")
    certain: NonNegativeInt = Field(description="Rows with scores of exactly 0 or 1.")
    lowest: float | None = Field(description="None when no score is a number.")
    highest: float | None
    mean: float | None

    @property
    def constant(self) -> bool:
        """Whether all scores are the same."""
        return self.lowest == self.highest


class SliceComparison(Value):
    """Both models on some of the holdout's rows, such as new users; only the differences have intervals."""

    name: str
    rows: NonNegativeInt
    positives: NonNegativeInt
    users: NonNegativeInt
    items: NonNegativeInt
    auc: MetricComparison
    log_loss: MetricComparison


class Agreement(Value):
    """How alike the two models' scores and lists are.  ``None`` where it cannot be measured."""

    stability_index: float | None = Field(description="PSI of the challenger's scores against the champion's.")
    top_overlap: float | None = Field(description="Share of the champion's top of a list that the challenger keeps.")
    top: int = Field(description="Length of that top.")
    overlaps: Curve | None = Field(
        default=None, description="Length of the top against the share kept, where lists are longer than that."
    )


class Lines(Value):
    """Pictures of one model on the holdout."""

    roc: Curve | None = Field(description="False against true positive rate; None with one class.")
    reliability: Curve = Field(description="Mean prediction against click rate, in bins of equal size.")
    scores: Curve = Field(description="Middle of each bin of scores against the share of rows in it.")


class Costs(Value):
    """What serving the challenger costs.  ``None`` is not measured."""

    latency_p99_milliseconds: NonNegativeFloat | None = Field(
        default=None,
        description="99th percentile of 100 requests, each of 100 candidates, scored by MLflow in a process of its "
        "own on one thread, without the network; of three such rounds the quietest, since a busy machine only adds.",
    )
    size_megabytes: NonNegativeFloat | None = Field(
        default=None, description="The bundle's files on disk, in millions of bytes."
    )
