"""The one place that reads the clock."""

from datetime import UTC, datetime

from prefect import task

from tasks.resuming import RESUMED


@task(name="moment", timeout_seconds=60, **RESUMED)
def moment(now: datetime | None = None) -> datetime:
    """The time this run counts as now: the given one, or the clock's (UTC)."""
    if now is None:
        return datetime.now(UTC)
    return now if now.tzinfo else now.replace(tzinfo=UTC)
