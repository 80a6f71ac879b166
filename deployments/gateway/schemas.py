"""What is sent to ``/rank`` and what comes back."""

from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, StrictInt, StrictStr, model_validator

Id = StrictStr | StrictInt
Cell = bool | int | float | str | None

_EXAMPLE: dict[str, JsonValue] = {
    "request_id": "3f2b8c",
    "user": 4711,
    "items": ["item-1", {"item": "item-2", "features": {"category": "news"}}],
    "context": {"device": "phone"},
    "length": 2,
}
_ANSWER: dict[str, JsonValue] = {
    "request_id": "3f2b8c",
    "model": "feed_ranker",
    "version": "7",
    "arm": "treatment",
    "rollout": "r12",
    "stage": "10 %",
    "items": [
        {"item": "item-2", "score": 0.31, "position": 1},
        {"item": "item-1", "score": 0.12, "position": 2},
    ],
    "fallback": False,
}


class Candidate(BaseModel):
    """An item with what only the caller knows about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: Id
    features: dict[str, Cell] = Field(default={}, description="Columns of the item, by name.")


class RankRequest(BaseModel):
    """Rank these items for this user, now."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    request_id: StrictStr | None = Field(
        default=None, min_length=1, max_length=200, description="Names the page view; made up if absent."
    )
    user: Id
    items: tuple[StrictStr | StrictInt | Candidate, ...] = Field(min_length=1, description="The candidates.")
    context: dict[str, Cell] = Field(default={}, description="Columns of the moment, such as the device.")
    user_features: dict[str, Cell] | None = Field(default=None, description="Columns of the user.")
    length: int | None = Field(default=None, ge=1, description="How many are returned, and thereby shown.")
    time: AwareDatetime | None = Field(default=None, description="Simulations only: what time it is.")

    @model_validator(mode="after")
    def _names_every_item_once(self) -> Self:
        ids = self.ids
        if len(set(map(str, ids))) < len(ids):
            twice = next(item for place, item in enumerate(ids) if str(item) in map(str, ids[:place]))
            raise ValueError(f"item {twice!r} is named twice; a list shows every item once")
        return self

    @property
    def ids(self) -> list[str | int]:
        """The candidates' ids, in the order they were sent."""
        return [entry.item if isinstance(entry, Candidate) else entry for entry in self.items]


class RankedItem(BaseModel):
    """One item of the answer."""

    item: str | int
    score: float = Field(description="Click probability by the model that picked it.")
    position: int = Field(ge=1)


class RankAnswer(BaseModel):
    """The items in order, best first, and who ranked them."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ANSWER]})

    request_id: str
    model: str
    version: str = Field(description="The version that answered.")
    arm: str
    rollout: str = Field(description="The rollout that runs; empty when none does.")
    stage: str
    items: list[RankedItem]
    fallback: bool = Field(description="The challenger should have answered, and the champion did.")


class Predictions(BaseModel):
    """MLflow's answer: one click probability per row."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"predictions": [0.12, 0.31]}]})

    predictions: list[float]


class Problem(BaseModel):
    """Why there is no answer (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="What happened, and what to do.")
    error_code: str = Field(description="As MLflow's scoring server says it.")
    request_id: str | None = None
