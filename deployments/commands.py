"""What the commands do: call a flow or a task, and tell the result in words and as JSON."""

from datetime import datetime
from pathlib import Path
from typing import cast, get_args

from deployments.session import Session
from deployments.terminal import asker
from deployments.times import now_of, utc
from deployments.who import who
from ranking.errors import SettingsError, StorageError
from ranking.results import Promotion, Retraining
from ranking.times import as_utc
from settings.rollout import StrategyName

RETRAIN_NEEDS = ("lightning.pytorch", "mlflow.pyfunc", "pandera.ibis", "matplotlib.backends.backend_agg")
"""Libraries of the retrain flow that take seconds to import."""


def turn(session: Session, *, cutoff: datetime | None, now: datetime | None, yes: bool) -> Retraining:
    """One run of the ``retrain`` flow, told."""
    from flows.approval import answered_by
    from flows.retrain import retrain as flow
    from tasks.reports import evidence_markdown

    with session.flows(needs=RETRAIN_NEEDS), answered_by(asker(session.output, yes=yes)):
        result = flow(config=session.config, data=session.data, cutoff=utc(cutoff), requested_by=who(), now=now)
    snapshot, split, output = result.snapshot, result.split, session.output
    output.say(
        f"Read {snapshot.rows:,} impressions of {snapshot.users:,} users and {snapshot.items:,} items, "
        f"{as_utc(snapshot.window.start)} to {as_utc(snapshot.cutoff)}; snapshot {snapshot.fingerprint[:16]}."
    )
    output.say(
        f"Trained {result.training.architecture} on {split.train_rows:,} rows, best of "
        f"{len(result.training.epochs)} epochs on the next {split.validation_rows:,}; registered as version "
        f"{result.challenger.version}."
    )
    output.markdown(evidence_markdown(result.evidence))
    tell_promotion(session, result.promotion)
    return result


def retrain(session: Session, *, cutoff: datetime | None, yes: bool) -> int:
    """``feedloop retrain``."""
    result = turn(session, cutoff=cutoff, now=now_of(session), yes=yes)
    session.output.finish(
        retraining=result, comparison=result.comparison, verdict=result.verdict, promotion=result.promotion
    )
    return 0


def compare(session: Session, *, champion: str, challenger: str, cutoff: datetime | None) -> int:
    """``feedloop compare``."""
    from flows.compare import compare as flow
    from tasks.reports import evidence_markdown

    with session.flows():
        evidence = flow(
            champion=champion,
            challenger=challenger,
            config=session.config,
            data=session.data,
            cutoff=utc(cutoff),
            now=now_of(session),
        )
    session.output.markdown(evidence_markdown(evidence))
    session.output.finish(comparison=evidence.comparison, verdict=evidence.verdict)
    return 0


def promote(session: Session, *, version: str, force: bool, strategy: str | None, reason: str, yes: bool) -> int:
    """``feedloop promote``: 7 when the challenger neither becomes champion nor sets out for its users."""
    from flows.approval import answered_by
    from flows.propose import propose as flow

    names = get_args(StrategyName)
    if strategy is not None and strategy not in names:
        raise SettingsError(f"--strategy {strategy!r} is no strategy. There are: {', '.join(names)}.")
    with session.flows(), answered_by(asker(session.output, yes=yes)):
        promotion = flow(
            challenger=version,
            strategy=cast(StrategyName | None, strategy),
            force=force,
            reason=reason,
            requested_by=who(),
            config=session.config,
            now=now_of(session),
        )
    tell_promotion(session, promotion)
    session.output.finish(promotion=promotion)
    return 0 if promotion.status in {"promoted", "rolling_out"} else 7


def init(session: Session, *, path: str, output: Path, force: bool) -> int:
    """``feedloop init``."""
    from deployments.draft import draft
    from tasks.data import describe_log

    if output.exists() and not force:
        raise StorageError(f"{output} exists already. Use --force to replace it, or --output for another name.")
    uri = path if "://" in path else str(Path(path).absolute())
    columns, newest = describe_log(uri)
    text = draft(uri, columns, newest)
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{output} cannot be written: {error.strerror}.") from error
    session.output.say(text)
    session.output.say(f"Written to {output}. Check the roles, then: feedloop run --config {output}")
    session.output.finish(file=str(output), toml=text)
    return 0


def simulate(session: Session, *, days: int) -> int:
    """``feedloop simulate``."""
    from deployments.story import serve_days

    feed = serve_days(session, days)
    session.output.finish(days=feed.days, until=feed.now.isoformat(), log=f"{feed.folder}/interactions")
    return 0


def tell_promotion(session: Session, promotion: Promotion | None) -> None:
    """What became of the challenger, in words."""
    output = session.output
    if promotion is None:
        output.say("The verdict asks for no promotion: the champion stays.")
        return
    if promotion.approval is not None:
        approval = promotion.approval
        verb = "Approved" if approval.approved else "Not approved"
        output.say(f"{verb} by {approval.approver} ({approval.channel}): {approval.reason}.")
    if promotion.status == "promoted" and promotion.champion is not None:
        before = f"; version {promotion.previous.version} is kept as previous" if promotion.previous else ""
        output.say(f"Version {promotion.champion.version} is the champion now{before}.")
    elif promotion.status == "rolling_out":
        output.say(f"{promotion.reason}")
        output.say("The champion stays until it is completed. See it move: feedloop advance, feedloop rollout status.")
    else:
        output.say(f"The champion stays as it is: {promotion.reason}")
