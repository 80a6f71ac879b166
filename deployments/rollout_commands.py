"""What the commands about rollouts and A/B tests do."""

from datetime import UTC, datetime

from deployments.session import Session
from deployments.times import now_of
from deployments.who import who
from ranking.errors import PromotionRefused
from ranking.rollout import Rollout
from ranking.times import as_utc
from tasks import rollout_entries, rollouts
from tasks.adapters.ledger import Ledger
from tasks.adapters.storage import write_bytes
from tasks.routing import current_routing, last_rollout, rollout_of
from tasks.stores import open_both


def advance(session: Session) -> int:
    """``feedloop advance``: one tick, embedded."""
    from flows.advance import advance as flow
    from tasks.rollout_report import rollout_markdown

    with session.flows():
        tick = flow(config=session.config, now=now_of(session))
    if tick is None:
        session.output.say("No rollout is on its way. `feedloop promote VERSION --strategy canary` asks for one.")
    else:
        _, ledger = open_both(**session.settings.store)
        session.output.markdown(rollout_markdown(tick, rollout_entries.history(ledger.entries(), tick.rollout)))
    session.output.finish(tick=tick)
    return 0


def status(session: Session) -> int:
    """``feedloop rollout status``."""
    models, ledger = open_both(**session.settings.store)
    entries, output = ledger.entries(), session.output
    newest = last_rollout(entries)
    rollout = None if newest is None else rollout_entries.present(entries) or rollout_of(newest)
    if rollout is None:
        output.say("There never was a rollout.")
    else:
        over = " The champion has changed since, so it is over." if rollout_entries.present(entries) is None else ""
        output.say(
            f"{rollout.id}: version {rollout.challenger} beside version {rollout.champion}, {rollout.strategy}, "
            f"{rollout.status} in stage {rollout.current.name!r} since {as_utc(rollout.entered)}.{over}"
        )
        for entry in rollout_entries.history(entries, rollout):
            output.say(f"{entry.number:>4}  {as_utc(entry.at)}  {entry.actor}: {entry.reason}")
    routing = current_routing(models, ledger)
    if routing is not None:
        shares = [f"{arm.name} {arm.share:.0%} version {arm.version}" for arm in routing.table.arms if arm.share]
        output.say(f"Routed now: {', '.join([*shares, f'everybody else version {routing.table.champion}'])}.")
    output.finish(rollout=rollout, routing=routing)
    return 0


def steer(session: Session, *, verb: rollouts.Verb, reason: str) -> int:
    """``feedloop rollout pause|resume|abort``: straight to the ledger, so that stopping waits for no server."""
    models, ledger = open_both(**session.settings.store)
    now = now_of(session) or datetime.now(UTC)
    tick = rollouts.steer(models, ledger, verb=verb, actor=who(), reason=reason, now=now)
    number = tick.entry.number if tick.entry else 0
    session.output.say(f"Rollout {tick.rollout.id} is {tick.rollout.status} (ledger entry {number}): {reason}")
    session.output.finish(rollout=tick.rollout)
    return 0


def plan(session: Session) -> int:
    """``feedloop ab plan``."""
    from tasks.ab_picture import plan_picture
    from tasks.ab_plan import plan_test

    settings, output = session.settings, session.output
    knobs = settings.rollout.ab_test.experiment
    planned = plan_test(settings.data, knobs, now_of(session) or datetime.now(UTC))
    rows = [
        f"| {option.weeks} | {option.users_per_arm:,} | {_percent(option.detectable_relative_effect)} |"
        for option in planned.options
    ]
    output.markdown(
        "\n".join(
            [
                planned.reason,
                "",
                "| weeks | users per arm | smallest change seen |",
                "| ---: | ---: | ---: |",
                *rows,
                "",
                f"Configured: {knobs.weeks} week{'s' if knobs.weeks > 1 else ''}. On equal models the test gives a "
                f"verdict in {planned.false_verdict_rate:.1%} of all cases, over all its looks.",
            ]
        )
    )
    uri = f"{settings.workspace}/reports/ab-plan.png"
    write_bytes(uri, plan_picture(planned, knobs.min_relative_effect))
    output.say(f"Picture: {uri}")
    output.finish(plan=planned, picture=uri)
    return 0


def read(session: Session) -> int:
    """``feedloop ab read``: decides nothing; ``feedloop advance`` does."""
    from tasks.ab_picture import look_picture
    from tasks.ab_readout import look, look_markdown
    from tasks.html import page
    from tasks.stage_logs import open_logs

    settings, output = session.settings, session.output
    rollout, now = _present(open_both(**settings.store)[1]), now_of(session) or datetime.now(UTC)
    with open_logs(
        rollout,
        online=settings.online_folder,
        outcomes=settings.outcomes_uri,
        data=settings.data,
        maturity_hours=settings.maturity_hours,
        now=now,
    ) as logs:
        seen = look(logs, now)
    text, picture = look_markdown(seen), look_picture(seen)
    folder = f"{settings.workspace}/reports/{rollout.id}"
    write_bytes(f"{folder}/readout.png", picture)
    title = f"A/B test {rollout.id}"
    write_bytes(f"{folder}/readout.html", page(title, text, {"Changes, and the rate by day": picture}).encode())
    output.markdown(text)
    output.say(f"Report: {folder}/readout.html. Looking changes nothing; `feedloop advance` decides.")
    output.finish(readout=seen.readout, report=f"{folder}/readout.html")
    return 0


def _present(ledger: Ledger) -> Rollout:
    rollout = rollout_entries.present(ledger.entries())
    if rollout is None:
        raise PromotionRefused("No rollout concerns the present champion, so there is no A/B test to read.")
    return rollout


def _percent(share: float | None) -> str:
    return "nothing" if share is None else f"{share:.1%}"
