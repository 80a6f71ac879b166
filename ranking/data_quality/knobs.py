"""How much is too much."""

from pydantic import Field

from ranking.values import Knobs


class QualityKnobs(Knobs):
    """When data are suspect, and when they are an incident that blocks retraining."""

    null_suspect: float = Field(default=0.02, ge=0, lt=1, description="Rise of a column's null share that is suspect.")
    null_incident: float = Field(
        default=0.10, ge=0, lt=1, description="Rise of a column's null share that is an incident."
    )
    unseen_suspect: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Share of unknown values, beyond what new values explain, that is suspect.",
    )
    unseen_incident: float = Field(default=0.20, ge=0, lt=1, description="The same, an incident.")
    unseen_growth: float = Field(
        default=2.0,
        ge=1,
        le=10,
        description="New values (new items) are taken to come up to this many times as fast as in the reference.",
    )
    duplicates_suspect: float = Field(
        default=0.01, ge=0, lt=1, description="Rise of the share of repeated rows that is suspect."
    )
    duplicates_incident: float = Field(default=0.05, ge=0, lt=1, description="The same, an incident.")
    late_suspect: float = Field(default=0.05, ge=0, lt=1, description="Rise of the share of late rows that is suspect.")
    late_incident: float = Field(default=0.20, ge=0, lt=1, description="The same, an incident.")
    stale_suspect_hours: float = Field(
        default=2.0,
        gt=0,
        le=24,
        description="Hours without rows, or without a column's values, before the window's end.",
    )
    stale_incident_hours: float = Field(default=4.0, gt=0, le=24, description="The same, an incident.")
    volume_suspect_ratio: float = Field(
        default=1.5, ge=1, le=100, description="Factor below the quietest or above the busiest reference day: suspect."
    )
    volume_incident_ratio: float = Field(default=2.5, ge=1, le=100, description="The same, an incident.")
    label_suspect_ratio: float = Field(
        default=1.5, ge=1, le=100, description="Factor by which the label rate may leave the reference's: suspect."
    )
    label_incident_ratio: float = Field(default=3.0, ge=1, le=100, description="The same, an incident.")
