"""What monitoring keeps of its decisions, and for how long."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect.settings import PREFECT_API_URL, temporary_settings

from ranking.monitoring import Weighed
from ranking.retention import RetentionKnobs
from ranking.triggers import Signals, TriggerKnobs
from settings.effects import RegistryKnobs, Store
from tasks.adapters.monitor_store import Landing, MonitorStore
from tasks.arbiter import forget, weigh

SUNDAY = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def test_old_decisions_go_with_the_notes_of_their_retrainings_and_the_one_on_its_way_keeps_its_own(
    tmp_path: Path,
) -> None:
    where = Store(registry=RegistryKnobs(), workspace=str(tmp_path))
    store = MonitorStore(str(tmp_path), RegistryKnobs().model_name)

    def check(days: int) -> Weighed:
        signals = Signals(champion="1", scheduled=True)
        # As if a server were there; nothing asks it.
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
            return weigh.fn(signals=signals, knobs=TriggerKnobs(), now=SUNDAY + days * DAY, **where)

    flight = check(0).flight
    assert flight is not None
    assert [check(days).decision.decision for days in (1, 2)] == ["wait", "wait"]
    for key, run in (("long-ago", "old-run"), (flight.key, "this-run")):
        store.take_up(key, run, SUNDAY)
        store.land(run, Landing(result="completed", at=SUNDAY))
    kept = store.decisions(2)

    assert forget.fn(retention=RetentionKnobs(decisions=3), **where) == 0
    assert forget.fn(retention=RetentionKnobs(decisions=2), **where) == 1
    assert store.decisions(9) == kept
    assert (store.taken_up("long-ago"), store.landing("old-run")) == (None, None)
    assert store.taken_up(flight.key) is not None
    # The next check still learns from the notes how the retraining ended, and may begin another.
    again = check(3).flight
    assert again is not None
    assert again.key != flight.key
    assert forget.fn(retention=RetentionKnobs(decisions=2), **where) == 1
    assert (store.taken_up(flight.key), store.landing("this-run")) == (None, None)
