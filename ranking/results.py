"""The frozen values that tasks hand to each other.

Read from top to bottom they tell the loop: what was read (``Snapshot``, ``FeatureTable``, ``Split``),
what was learnt (``Trained``, ``ModelRef``), how it compares (``Comparison``), what follows
(``Verdict``, ``Evidence``), who agreed (``Approval``) and what was done (``Promotion``, ``Rollback``,
``Retraining``).

Prefect keeps what a task took and gave under the name of its class, module and all, and a run that waits finds
its results by that name after an upgrade: so these classes stay in this file.  What they are made of has files of
its own.
"""

from typing import Any, Literal

from pydantic import (
    AwareDatetime,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from ranking.decision import Confidence, Decision
from ranking.features import FeatureSpec, Schema
from ranking.findings import Finding
from ranking.fits import Training
from ranking.ledger import LedgerEntry
from ranking.measurements import Agreement, Costs, Lines, MetricComparison, ScoreHealth, SliceComparison
from ranking.times import Window
from ranking.trial import Trial
from ranking.values import Value, digest


class Snapshot(Value):
    """An immutable copy of the validated rows that one run works on.

    ``uri`` is a folder holding ``rows.parquet`` (sorted by time, with ``row_id`` 0…rows-1).
    ``fingerprint`` is a sha256 of the content: same rows, same fingerprint, whatever the file
    layout or row order of the source.
    """

    uri: str
    fingerprint: str
    rows: NonNegativeInt
    users: NonNegativeInt
    items: NonNegativeInt
    positives: NonNegativeInt
    window: Window
    cutoff: AwareDatetime
    log: Schema


class FeatureTable(Value):
    """The snapshot's rows with every feature one specification asks for, in ``row_id`` order."""

    uri: str
    snapshot_fingerprint: str
    rows: NonNegativeInt
    spec: FeatureSpec


class Split(Value):
    """Which stretch of time is for what.  ``train < validation < gap < holdout < maturity``."""

    train: Window
    validation: Window
    holdout: Window
    gap_hours: NonNegativeFloat
    label_maturity_hours: NonNegativeFloat
    train_rows: NonNegativeInt
    validation_rows: NonNegativeInt
    holdout_rows: NonNegativeInt

    @property
    def learnt(self) -> Window:
        """Everything the model saw while learning: train and validation."""
        return Window(start=self.train.start, end=self.validation.end)


class Trained(Value):
    """A fitted model that is saved but not registered yet."""

    bundle_uri: str
    training: Training


class ModelRef(Value):
    """A registered model, by name, version and content.

    ``name`` is the model that serves; its versions are those of ``challengers``, where every trained model is
    registered.  A released one keeps its version: the registry knows where its released copy lies.

    ``learnt`` is the time span of the rows it saw; ``None`` when nobody recorded it, and then it
    can never be beaten into a PROMOTE (the comparison would be unfair by an unknown amount).
    """

    name: str
    version: str
    run_id: str
    digest: str
    learnt: Window | None
    package_digest: str | None = Field(
        default=None, description="Digest of all that MLflow serves: the bundle and the code around it."
    )

    @property
    def uri(self) -> str:
        """The address of this very version for a plain ``mlflow.pyfunc.load_model``.

        What serves is ``models:/NAME@champion``.
        """
        return f"models:/{challengers_of(self.name)}/{self.version}"


def challengers_of(name: str) -> str:
    """The registered model that holds every trained version of ``name``, as the trainer registers them."""
    return f"{name}-challengers"


class ServingCheck(Value):
    """How the registered challenger answered MLflow alone, in a clean process, before anybody is asked about it.

    ``reason`` says what was asked and how it was answered, or why it is not fit to serve.
    """

    passed: bool
    reason: str
    golden_rows: NonNegativeInt = Field(default=0, description="Rows kept with the model, with their scores of then.")
    sampled_rows: NonNegativeInt = Field(default=0, description="Holdout rows, scored by the bundle beside it.")
    worst_difference: NonNegativeFloat | None = Field(
        default=None, description="Largest difference between the two scores of one row; None when not measurable."
    )
    edge_cases: tuple[str, ...] = Field(default=(), description="What else was asked, such as rows full of nulls.")
    costs: Costs = Costs()


class Comparison(Value):
    """Champion and challenger on the same holdout rows, each scored through its own bundle."""

    champion: ModelRef | None
    challenger: ModelRef
    snapshot_fingerprint: str
    holdout: Window
    exploration: bool = Field(
        default=False, description="Only impressions that were chosen at random were compared on."
    )
    holdout_digest: str = Field(description="sha256 of the row ids and labels that both models were scored on.")
    rows: NonNegativeInt
    positives: NonNegativeInt
    users: NonNegativeInt
    items: NonNegativeInt
    auc: MetricComparison
    log_loss: MetricComparison
    gauc: MetricComparison
    calibration: MetricComparison = Field(description="Predicted clicks / actual clicks; 1 is calibrated.")
    constant_log_loss: float = Field(description="Log loss of always predicting the holdout's own click rate.")
    others: tuple[MetricComparison, ...] = Field(default=(), description="Reported, never gating.")
    slices: tuple[SliceComparison, ...] = ()
    champion_scores: ScoreHealth | None = None
    challenger_scores: ScoreHealth | None = None
    score_correlation: float | None = Field(
        default=None, description="Pearson correlation of both models' scores; None when one is constant."
    )
    agreement: Agreement | None = None
    champion_lines: Lines | None = None
    challenger_lines: Lines | None = None
    costs: Costs = Costs()
    serving: ServingCheck | None = Field(
        default=None, description="None when nobody asked the registered challenger, as in a simulation."
    )

    @property
    def metrics(self) -> tuple[MetricComparison, ...]:
        """All metrics, the gating ones first."""
        return (self.auc, self.log_loss, self.gauc, self.calibration, *self.others)


class Verdict(Value):
    """The gate's decision, with its reason."""

    decision: Decision
    confidence: Confidence
    reason: str
    missing: tuple[str, ...] = Field(default=(), description="What would have to be known to decide better.")
    findings: tuple[Finding, ...] = ()
    minimum_detectable_effect: float | None = Field(
        default=None, description="Smallest true AUC gain that this holdout would promote with 80 % probability."
    )


class Evidence(Value):
    """Everything a promotion rests on.  Its digest is what an approval is bound to."""

    comparison: Comparison
    verdict: Verdict
    policy_digest: str = Field(description="sha256 of the policy that was in force.")
    policy: dict[str, JsonValue] = Field(
        default={}, description="That policy: the knobs of gate and split. Empty in records that kept only its digest."
    )
    code_version: str | None = Field(default=None, description="feedloop's version, and its commit if known.")
    training: Training | None = None
    split: Split | None = None
    plan: dict[str, JsonValue] = Field(
        default={}, description="How the challenger is to reach its users; see :class:`ranking.rollout.ReleasePlan`."
    )
    trial: Trial | None = Field(default=None, description="What live users said of it; None when none were asked.")

    @model_serializer(mode="wrap")
    def _without_what_older_evidence_lacks(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The digest of stored evidence must not change when a later feedloop adds a field: absent stays absent.
        plain: dict[str, Any] = handler(self)
        return {name: value for name, value in plain.items() if value or name not in ("plan", "trial")}

    @property
    def compared_with(self) -> str | None:
        """Version of the champion that was compared; ``None`` if there was none."""
        return self.comparison.champion.version if self.comparison.champion else None

    @property
    def digest(self) -> str:
        """sha256 of the evidence; anything changed gives another one."""
        return digest(self)


class Approval(Value):
    """The answer to "shall this challenger replace that champion?".  It holds for one piece of evidence, once."""

    approved: bool
    approver: str = Field(description="Who answered, or what let it through.")
    seconded_by: tuple[str, ...] = Field(default=(), description="Who else approved, where several must.")
    reason: str
    channel: Literal["terminal", "flag", "prefect", "policy", "nobody"]
    evidence_digest: str = Field(description="What was shown; an approval of anything else is refused.")
    requested_by: str | None = Field(default=None, description="Who asked for the promotion; None when not known.")
    at: AwareDatetime
    expires_at: AwareDatetime | None = Field(default=None, description="It counts until then; None is for ever.")

    @property
    def approvers(self) -> tuple[str, ...]:
        """Everybody who answered."""
        return (self.approver, *self.seconded_by)

    @property
    def digest(self) -> str:
        """sha256 of the answer: the ledger remembers it, so that it is not used a second time."""
        return digest(self)


class Promotion(Value):
    """What ``promote`` did, or why it did nothing."""

    status: Literal["promoted", "rolling_out", "not_approved", "refused"]
    reason: str
    champion: ModelRef | None = Field(description="Who serves now.")
    previous: ModelRef | None = Field(description="Who served before, when something changed.")
    challenger: ModelRef
    approval: Approval | None
    entry: LedgerEntry | None


class Rollback(Value):
    """A champion that was put back."""

    champion: ModelRef
    replaced: ModelRef
    reason: str
    entry: LedgerEntry


class Report(Value):
    """Where the report of one run lies."""

    markdown_uri: str
    html_uri: str = Field(description="The same in one file, with its pictures inside.")
    picture_uri: str = Field(description="ROC, calibration, AUC difference, training.")
    evidence_picture_uri: str = Field(description="Intervals against margins, slices, score shift, top-k overlap.")
    title: str


class Retraining(Value):
    """One turn of the loop, whole."""

    trigger: str
    cutoff: AwareDatetime
    snapshot: Snapshot
    split: Split
    training: Training
    challenger: ModelRef
    evidence: Evidence
    promotion: Promotion | None = Field(description="None when the verdict did not ask for one.")
    report: Report

    @property
    def comparison(self) -> Comparison:
        """The challenger against the champion."""
        return self.evidence.comparison

    @property
    def verdict(self) -> Verdict:
        """What follows from it."""
        return self.evidence.verdict
