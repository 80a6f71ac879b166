"""What time it is in the sample feed."""

from datetime import timedelta
from pathlib import Path

import pytest

from settings.loading import load
from tasks.sample import SampleFeed, sample_now, set_live_until

WORLD = "[world]\nusers = 40\nitems = 60\nrequests_per_day = 50\n"


def test_the_sample_feed_is_where_its_days_end_or_its_live_traffic(tmp_path: Path) -> None:
    (tmp_path / "feedloop.toml").write_text(WORLD)
    settings = load(tmp_path / "feedloop.toml")
    assert sample_now(settings) == settings.world.start
    feed = SampleFeed(settings.sample_folder, settings.world, settings.data.window_days)
    feed.serve(2, None)
    assert sample_now(settings) == feed.now == settings.world.start + timedelta(days=2)
    set_live_until(settings.sample_folder, feed.now + timedelta(hours=5))
    assert sample_now(settings) == feed.now + timedelta(hours=5)


def test_any_other_log_lives_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sample_now(load(data_uri=str(tmp_path / "log.parquet"))) is None
