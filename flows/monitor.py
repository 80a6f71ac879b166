"""One check of the champion: are the data sound, have they drifted, is it still good, and should it be retrained?"""

from datetime import datetime

from prefect import flow

from flows.outcome import nothing_serves
from ranking.monitoring import Monitoring, last_day
from settings.loading import load
from tasks.aftermath import LEAVES_WORD
from tasks.alerts import tell
from tasks.arbiter import forget, weigh
from tasks.clock import moment
from tasks.drift_report import write_drift_report
from tasks.frozen import champion_reference
from tasks.monitoring import check_data, check_drift, count_new_rows, read_window, score_days, signals_of
from tasks.service import current_champion


@flow(name="monitor", flow_run_name="monitor", timeout_seconds=12 * 3600, **LEAVES_WORD)
def monitor(config: str | None = None, data: str | None = None, now: datetime | None = None) -> Monitoring | None:
    """Check the last whole day of the log, and let the arbiter decide whether to retrain.

    Nothing is trained or promoted here: a decision becomes an event, and an automation starts the retraining.

    Args:
        config: settings file; without one, feedloop.toml in the working directory.
        data: another log than the configured one: path or URI.
        now: pretend it is this moment (for replays).
    """
    settings = load(config, data_uri=data)
    at, maturity = moment(now), settings.maturity_hours

    champion = current_champion(**settings.store)
    if champion is None:
        return nothing_serves()
    frozen = champion_reference(
        champion=champion, data=settings.data, knobs=settings.drift, maturity_hours=maturity, now=at, **settings.store
    )
    window = last_day(at)
    counts = read_window(frozen=frozen, data=settings.data, window=window, now=at, maturity_hours=maturity)
    quality = check_data(frozen=frozen, counts=counts, knobs=settings.quality)
    scores = score_days(
        champion=champion,
        frozen=frozen,
        quality=quality,
        data=settings.data,
        knobs=settings.performance,
        maturity_hours=maturity,
        now=at,
        **settings.store,
    )
    drift = check_drift(frozen=frozen, counts=counts, scores=scores, knobs=settings.drift)
    new_rows = count_new_rows(
        champion=champion, data=settings.data, window=window, wanted=settings.triggers.volume_rows
    )
    signals = signals_of(champion, quality, drift, scores, new_rows)
    weighed = weigh(signals=signals, knobs=settings.triggers, now=at, **settings.store)
    report = write_drift_report(
        model=champion.name,
        frozen=frozen,
        quality=quality,
        drift=drift,
        scores=scores,
        weighed=weighed,
        workspace=settings.workspace,
    )
    tell(weighed=weighed, quality=quality, model=champion.name)
    forget(retention=settings.retention, **settings.store)
    return Monitoring(
        champion=champion,
        window=window,
        quality=quality,
        drift=drift,
        performance=scores.performance,
        weighed=weighed,
        report=report,
    )
