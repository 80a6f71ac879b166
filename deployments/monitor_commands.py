"""``feedloop monitor``, and what ``feedloop status`` tells of the last checks."""

from deployments.session import Session
from deployments.times import now_of
from ranking.times import as_utc

SHOWN = 3
"""Decisions that ``feedloop status`` tells."""


def monitor(session: Session) -> int:
    """``feedloop monitor``: one check, embedded."""
    from flows.monitor import monitor as flow
    from tasks.drift_report import drift_markdown

    with session.flows(needs=("mlflow.pyfunc", "pandera.ibis", "matplotlib.backends.backend_agg")):
        found = flow(config=session.config, data=session.data, now=now_of(session))
    if found is None:
        session.output.say("No champion yet, so there is nothing to check. `feedloop retrain` proposes one.")
    else:
        text = drift_markdown(found.report.title, found.quality, found.drift, found.performance, found.weighed)
        session.output.markdown(text)
        session.output.say(f"Report: {found.report.markdown_uri}")
    session.output.finish(monitoring=found)
    return 0


def tell_checks(session: Session) -> list[dict[str, str | None]]:
    """Say the arbiter's last decisions and non-decisions with their reasons; gives them as plain data."""
    from tasks.adapters.monitor_store import MonitorStore

    settings = session.settings
    store = MonitorStore(settings.workspace, settings.registry.model_name)
    decisions, flight = store.decisions(SHOWN), store.memory().flight
    for decided in decisions:
        session.output.say(f"Check of {as_utc(decided.at)}: {decided.reason}")
    if not decisions:
        session.output.say("Never monitored. `feedloop monitor` checks the last whole day.")
    if flight is not None:
        session.output.say(f"Retraining {flight.key}, by {flight.trigger}, is on its way.")
    return [{"at": as_utc(d.at), "decision": d.decision, "trigger": d.trigger, "reason": d.reason} for d in decisions]
