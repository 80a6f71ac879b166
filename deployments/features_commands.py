"""``feedloop features``."""

from datetime import datetime

from deployments.session import Session
from deployments.times import now_of, utc
from ranking.times import as_utc


def write(session: Session, *, versions: tuple[str, ...], as_of: datetime | None) -> int:
    """Run the ``refresh`` flow, embedded, and say what servers find now."""
    from flows.refresh import refresh

    with session.flows(needs=("mlflow.pyfunc", "pandera.ibis")):
        tables = refresh(
            config=session.config, data=session.data, models=versions, as_of=utc(as_of), now=now_of(session)
        )
    for table in tables:
        session.output.say(
            f"Serving features as of {as_utc(table.as_of)}: {table.users:,} users, {table.items:,} items, digest "
            f"{table.digest[:12]}, in {table.uri}."
        )
    if not tables:
        session.output.say("No model needs features yet: there is no champion. `feedloop retrain` proposes one.")
    session.output.finish(tables=tables)
    return 0
