"""What a command takes for now, and what a typed moment means."""

from datetime import UTC, datetime

from deployments.session import Session


def now_of(session: Session) -> datetime | None:
    """The sample feed has a calendar of its own; None means the clock's."""
    if not session.settings.is_sample:
        return None
    from tasks.sample import sample_now

    return sample_now(session.settings)


def utc(moment: datetime | None) -> datetime | None:
    """A moment that was typed without a zone is meant in UTC."""
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)
