"""The frozen values that travel between tasks.

Read from top to bottom they tell the loop: what was read (``Snapshot``, ``FeatureTable``, ``Split``),
what was learnt (``Training``, ``ModelRef``), how it compares (``Comparison``), what follows
(``Finding``, ``Verdict``, ``Evidence``), who agreed (``Approval``) and what was done (``Promotion``,
``Rollback``, ``LedgerEntry``, ``Retraining``).
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import (
    AwareDatetime,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from ranking.features import FeatureSpec, Schema
from ranking.values import Value, digest


class Window(Value):
    """A half-open stretch of time, ``[start, end)``."""

    start: AwareDatetime
    end: AwareDatetime

    @model_validator(mode="after")
    def _runs_forward(self) -> Self:
        if self.end < self.start:
            raise ValueError(f"the window ends ({self.end}) before it starts ({self.start})")
        return self

    @property
    def days(self) -> float:
        """Length in days."""
        return (self.end - self.start) / timedelta(days=1)


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


class Epoch(Value):
    """One pass over the training rows."""

    number: NonNegativeInt
    train_log_loss: float
    validation_log_loss: float
    validation_auc: float | None = Field(description="None when the validation slice has one class.")
    seconds: NonNegativeFloat


class Training(Value):
    """How a fit went.  ``digest`` is the bundle's manifest digest."""

    architecture: str
    digest: str
    seed: int
    device: str
    epochs: tuple[Epoch, ...]
    best_epoch: NonNegativeInt
    rows: NonNegativeInt
    rows_per_second: NonNegativeFloat
    parameters: NonNegativeInt
    learnt: Window
    warm_started_from: str | None = Field(default=None, description="Digest of the champion's bundle.")


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


class Status(StrEnum):
    """What a guardrail found, from good to bad."""

    OK = "ok"
    UNPROVEN = "unproven"
    HARM = "harm"


class Finding(Value):
    """One guardrail's answer, in words and numbers."""

    rule: str
    status: Status
    sentence: str
    numbers: dict[str, float | None] = Field(default_factory=dict)


class Decision(StrEnum):
    """What should happen to the challenger."""

    PROMOTE = "PROMOTE"
    A_B_TEST = "A_B_TEST"
    REJECT = "REJECT"


class Confidence(StrEnum):
    """How sure the verdict is."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


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


class Trial(Value):
    """What live users said about a challenger: the verdict of an A/B test that ran to its end."""

    rollout: str = Field(description="Id of the rollout; the ledger holds all its steps.")
    verdict: str
    reason: str
    began: AwareDatetime
    ended: AwareDatetime
    findings: tuple[Finding, ...] = ()
    numbers: dict[str, float | None] = Field(default_factory=dict)


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


class Operation(StrEnum):
    """What a ledger entry records."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    DECLINE = "decline"
    REFUSE = "refuse"
    ROLLOUT = "rollout"

    @property
    def moves(self) -> bool:
        """Whether such an entry says who serves from then on; the others only record that nothing changed."""
        return self in {Operation.PROMOTE, Operation.ROLLBACK}


class LedgerEntry(Value):
    """One line of the append-only history of who serves."""

    number: int = Field(ge=1)
    operation: Operation
    before: str | None = Field(description="Version that served before; None for the first champion.")
    after: str | None = Field(description="Version that serves after this entry.")
    subject: str = Field(description="Version the entry is about: the challenger, or the target of a rollback.")
    digest: str = Field(description="Manifest digest of the subject's bundle.")
    evidence_digest: str | None
    forced: bool
    actor: str
    reason: str
    at: AwareDatetime
    previous_hash: str = Field(description="Hash of the entry before; empty for the first.")
    release_digest: str | None = Field(default=None, description="Digest of the released copy, code and all.")
    approval_digest: str | None = Field(default=None, description="Digest of the approval that was used up.")
    channel: str | None = Field(default=None, description="How the approval was given.")
    requested_by: str | None = Field(default=None, description="Who asked for it.")
    request: str | None = Field(default=None, description="The run that did it; a repeated run does it once.")
    rollout: dict[str, JsonValue] | None = Field(
        default=None, description="State of a rollout from here on; see :mod:`ranking.rollout`."
    )

    @model_serializer(mode="wrap")
    def _without_what_older_entries_lack(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The hash of an entry must not change when a later feedloop adds a field: absent stays absent.
        plain: dict[str, Any] = handler(self)
        return {name: value for name, value in plain.items() if value is not None or name in _FIRST_FIELDS}

    @property
    def hash(self) -> str:
        """sha256 of this entry, chained through ``previous_hash``."""
        return digest(self)


_FIRST_FIELDS = {"before", "after", "evidence_digest"}
"""Fields that are written even when they are None, as they were in the first version of the ledger."""


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


class Service(Value):
    """A stretch of time in which one version served."""

    version: str
    start: AwareDatetime
    end: AwareDatetime | None = Field(description="None while it serves.")
    started_by: LedgerEntry


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


def as_utc(moment: datetime) -> str:
    """A moment as people read it: ``2026-01-31 23:59 UTC``."""
    return moment.strftime("%Y-%m-%d %H:%M UTC")
