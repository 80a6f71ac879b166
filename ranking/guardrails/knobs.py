"""Margins and budgets of the guardrails."""

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from ranking.values import Knobs


class GuardrailKnobs(Knobs):
    """What the guardrails allow.  The gate's own knobs stand beside them under ``[gate]``."""

    guardrail_confidence_level: float = Field(
        default=0.95, gt=0.5, lt=1, description="One-sided confidence of each non-inferiority test."
    )
    log_loss_margin_relative: float = Field(
        default=0.005, gt=0, lt=1, description="Log loss may be worse by less than this share of the champion's."
    )
    gauc_margin: float = Field(default=0.005, gt=0, lt=1, description="GAUC may be worse by less than this.")
    gauc_gain_required: bool = Field(
        default=True, description="A promotion also needs proof that ranking within users or requests got better."
    )
    calibration_low: float = Field(default=0.90, gt=0, lt=1, description="Lowest acceptable predicted / actual clicks.")
    calibration_high: float = Field(
        default=1.10, gt=1, lt=10, description="Highest acceptable predicted / actual clicks."
    )
    calibration_harm: float = Field(
        default=0.05, gt=0, lt=1, description="Distance of predicted / actual from 1 that is harm once proven."
    )
    slice_columns: tuple[str, ...] = Field(
        default=(), description="Categorical columns whose values are slices that must not be harmed."
    )
    slice_names: tuple[str, ...] = Field(
        default=("new_users", "cold_items"), description="Slices that must be measured whatever the columns."
    )
    slice_auc_margin: float = Field(default=0.005, gt=0, lt=1, description="AUC drop in a slice that is harm.")
    slice_min_positives: PositiveInt = Field(
        default=50, description="A slice with fewer clicks, or fewer non-clicks, is too small to be tested."
    )
    slice_family_error: float = Field(
        default=0.05, gt=0, lt=0.5, description="Chance of blaming any slice at all when none is worse (Holm)."
    )
    min_positives: NonNegativeInt = Field(
        default=50, description="Fewest clicks, and fewest non-clicks, for standard errors to be trusted."
    )
    min_clusters: NonNegativeInt = Field(
        default=20, description="Fewest users, and fewest items, for standard errors to be trusted."
    )
    max_latency_p99_milliseconds: PositiveFloat | None = Field(
        default=None,
        description="Budget for the 99th percentile of scoring a request of 100 candidates; none unless set.",
    )
    max_size_megabytes: PositiveFloat | None = Field(
        default=None, description="Budget for the bundle's size on disk; none unless set."
    )
