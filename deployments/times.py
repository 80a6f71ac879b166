"""What a command takes for now, and what a typed moment means."""

from datetime import UTC, datetime

from deployments.session import Session


def now_of(session: Session) -> datetime | None:
    """The sample feed has a calendar of its own, which its days and its live traffic move; None means the clock's."""
    settings = session.settings
    if not settings.is_sample:
        return None
    from tasks.sample import SampleFeed, live_until

    feed = SampleFeed(settings.sample_folder, settings.world, settings.data.window_days)
    return max(feed.now, live_until(settings.sample_folder) or feed.now)


def utc(moment: datetime | None) -> datetime | None:
    """A moment that was typed without a zone is meant in UTC."""
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)
