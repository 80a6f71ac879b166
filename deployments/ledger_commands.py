"""What the commands about who serves do."""

import uuid
from datetime import UTC, datetime

from deployments.session import Session
from deployments.times import now_of, utc
from deployments.who import who
from ranking.errors import LedgerBroken
from ranking.ledger import LedgerEntry
from ranking.retention import Fate
from ranking.times import as_utc
from tasks.champion import serving
from tasks.rollout_entries import running
from tasks.stores import open_both
from tasks.succession import served_at


def status(session: Session) -> int:
    """``feedloop status``."""
    from deployments.monitor_commands import tell_checks

    output = session.output
    models, ledger = open_both(**session.settings.store)
    champion, entries, versions = serving(models, ledger), ledger.entries(), models.versions()
    if champion is None:
        output.say("No champion yet. `feedloop run` makes one; `feedloop retrain` proposes one from your data.")
    else:
        output.say(f"Champion: version {champion.version}, digest {champion.digest[:16]}.")
        output.say(f"Load it as models:/{champion.name}@champion, which is {models.address(champion)} now.")
        if champion.learnt is not None:
            output.say(f"It learnt from {as_utc(champion.learnt.start)} to {as_utc(champion.learnt.end)}.")
    rollout = running(entries)
    if rollout is not None:
        output.say(
            f"On its way: version {rollout.challenger} by {rollout.strategy}, {rollout.status} in stage "
            f"{rollout.current.name!r} since {as_utc(rollout.entered)}. See feedloop rollout status."
        )
    if entries:
        output.say(f"Last entry: {_line(entries[-1])}")
    output.say(f"Registered versions: {', '.join(version.version for version in versions) or 'none'}.")
    checks = tell_checks(session)
    output.finish(
        champion=champion,
        rollout=rollout,
        last_entry=entries[-1] if entries else None,
        versions=list(versions),
        checks=checks,
    )
    return 0


def history(session: Session) -> int:
    """``feedloop history``."""
    entries = open_both(**session.settings.store)[1].entries()
    for entry in entries:
        session.output.say(_line(entry))
    if not entries:
        session.output.say("The ledger is empty: nothing was ever promoted, refused or rolled back.")
    session.output.finish(entries=list(entries))
    return 0


def who_served(session: Session, *, at: datetime) -> int:
    """``feedloop who-served``."""
    moment = utc(at) or at
    entries = open_both(**session.settings.store)[1].entries()
    service = served_at(entries, moment)
    if service is None:
        start = f"; the first entry is of {as_utc(entries[0].at)}" if entries else ": the ledger is empty"
        session.output.say(f"Nothing that feedloop promoted served at {as_utc(moment)}{start}.")
    else:
        until = f"until {as_utc(service.end)}" if service.end else "and serves still"
        session.output.say(f"Version {service.version} served, from {as_utc(service.start)} {until}.")
        session.output.say(_line(service.started_by))
    session.output.finish(service=service)
    return 0


def rollback(session: Session, *, to: str | None, reason: str) -> int:
    """``feedloop rollback``: straight to the registry, so that going back waits for no server."""
    from tasks.rollback import rollback as back

    models, ledger = open_both(**session.settings.store)
    now = now_of(session) or datetime.now(UTC)
    result = back(models, ledger, to=to, reason=reason, actor=who(), now=now, request=str(uuid.uuid4()))
    session.output.say(
        f"Version {result.champion.version} is the champion again; version {result.replaced.version} was put aside. "
        f"Ledger entry {result.entry.number}: {reason}."
    )
    session.output.finish(rollback=result)
    return 0


def verify(session: Session) -> int:
    """``feedloop verify``: LedgerBroken (6) names every entry that was edited or is gone."""
    settings = session.settings
    ledger = open_both(**settings.store)[1]
    breaks = ledger.verify()
    if breaks:
        raise LedgerBroken(
            f"The ledger of {settings.registry.model_name!r} was changed after it was written: {'; '.join(breaks)}. "
            "Nothing is promoted or rolled back on it. Restore it from a backup."
        )
    entries = ledger.entries()
    head = f", the last one {entries[-1].hash}" if entries else ""
    session.output.say(f"Intact: {len(entries)} entries, each with the hash of the one before{head}.")
    session.output.finish(entries=len(entries), head=entries[-1].hash if entries else None, breaks=[])
    return 0


def prune(session: Session, *, version: str | None, dry_run: bool) -> int:
    """``feedloop prune``: RetentionError (7) when a version is named that must be kept."""
    from tasks.retention import prune as delete_surplus

    settings, output = session.settings, session.output
    fates = delete_surplus(*open_both(**settings.store), settings.retention, only=version, dry_run=dry_run)
    words = {Fate.KEEP: "kept", Fate.DROP_BYTES: "bytes dropped", Fate.DELETE: "deleted"}
    for keeping in fates:
        would = "would be " if dry_run and keeping.fate is not Fate.KEEP else ""
        output.say(f"Version {keeping.version}: {would}{words[keeping.fate]}, {keeping.reason}.")
    if not fates:
        output.say("Nothing is registered yet.")
    elif not dry_run and any(keeping.fate is not Fate.KEEP for keeping in fates):
        output.say("`mlflow gc` frees the space; until then it can be restored.")
    output.finish(versions=list(fates), dry_run=str(dry_run).lower())
    return 0


def _line(entry: LedgerEntry) -> str:
    forced = ", forced" if entry.forced else ""
    change = f"{entry.before or 'none'} -> {entry.after or 'none'}"
    return (
        f"{entry.number:>4}  {as_utc(entry.at)}  {entry.operation}{forced}  version {entry.subject}  "
        f"(champion {change})  by {entry.actor}: {entry.reason}"
    )
