"""``feedloop simulate --traffic``: visitors of the sample feed ask the gateway, and a rollout takes its course."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from deployments.commands import tell_promotion
from deployments.live_gateway import LiveGateway, started
from deployments.session import Session
from deployments.terminal import asker
from deployments.times import now_of
from deployments.visitors import Visitors
from deployments.who import who
from ranking.decision import Decision
from ranking.errors import SettingsError, UnknownModel
from ranking.health import control_bad_share
from ranking.rollout import Rollout, RolloutStatus
from ranking.rollout_checks import StageEvidence
from ranking.strategies import AbStage
from ranking.times import as_utc
from ranking.traffic import Traffic
from settings.rollout import StrategyName
from tasks.registry import champion_bundle, champion_now
from tasks.rollout_entries import running
from tasks.rollouts import Tick
from tasks.routing import current_routing
from tasks.sample import SampleFeed, set_live_until
from tasks.stores import open_both

NEEDS = ("mlflow.pyfunc", "pandera.ibis", "matplotlib.backends.backend_agg")
PATIENCE_SECONDS = 60.0
DEFAULT_CHALLENGER = "equal"
"""Who sets out when only a strategy was named: nothing is wrong with it, so one sees the whole ramp."""

APPROVED = "feedloop simulate approves what it has planted"


@dataclass(frozen=True)
class Plan:
    """What was asked for on the command line."""

    challenger: str | None
    strategy: StrategyName | None
    days: float | None
    requests_per_day: int | None
    users: int | None
    label_delay_hours: float | None
    tick_minutes: int | None
    seed: int
    speed: float | None
    gateway: str | None


@dataclass(frozen=True)
class Pace:
    """How long a simulation lasts at most, how often it looks, and how many pages a day asks for."""

    days: float = 4
    tick_minutes: int = 30
    requests_per_day: int = 24_000


USUAL = Pace()
PACES = {"ab_test": Pace(days=10, tick_minutes=240, requests_per_day=8_000), "immediate": Pace(days=1)}
"""By strategy, unless it was said: long enough to see its end.  An A/B test lasts a week and decides once a day."""


def _pace(session: Session, plan: Plan) -> Pace:
    settings = session.settings
    rollout = running(open_both(**settings.store)[1].entries())
    planned = _strategy(session, plan) if plan.challenger or plan.strategy else "immediate"
    usual = PACES.get(rollout.strategy if rollout else planned, USUAL)
    said = {name: getattr(plan, name) for name in ("days", "tick_minutes", "requests_per_day")}
    return replace(usual, **{name: value for name, value in said.items() if value is not None})


def _strategy(session: Session, plan: Plan) -> StrategyName:
    """At once is the usual knob, and nothing to watch; who wants it says so."""
    configured = session.settings.rollout.strategy
    return plan.strategy or ("canary" if configured == "immediate" else configured)


def run(session: Session, **asked: Any) -> int:
    """``feedloop simulate --traffic``."""
    plan, settings, output = Plan(**asked), session.settings, session.output
    if not settings.is_sample:
        raise SettingsError(
            "Only the sample feed has visitors to simulate. Use a feedloop.toml with data.uri = 'sample'."
        )
    if champion_now(**settings.store) is None:
        raise UnknownModel("Nothing serves yet. Run `feedloop run --yes` first, then simulate traffic.")
    pace = _pace(session, plan)
    traffic = Traffic(settings.world, requests_per_day=pace.requests_per_day, visitors=plan.users, seed=plan.seed)
    start = now_of(session) or settings.world.start
    hours = settings.world.label_delay_hours if plan.label_delay_hours is None else plan.label_delay_hours
    if not session.verbose:
        # Every tick is told in one line below.
        logging.getLogger("feedloop.rollouts").setLevel(logging.WARNING)
        logging.getLogger("feedloop.serving_features").setLevel(logging.WARNING)
    with session.flows(needs=NEEDS), _gateway(session, plan) as gateway:
        _refresh(session, start)
        rollout = _set_out(session, plan, start)
        visitors = Visitors(traffic, gateway, settings.outcomes_uri, timedelta(hours=hours))
        visitors.recall(start)
        try:
            ended = _go_on(session, pace, plan.speed, visitors, start, rollout)
        except KeyboardInterrupt:
            output.say("Broken off. The same command goes on with the tick that was not finished.")
            raise
    champion = champion_now(**settings.store)
    output.step("Where things stand")
    output.say(
        f"It is {as_utc(ended)} in the sample feed. Champion: version {champion.version if champion else 'none'}."
    )
    output.say("Every step with its reason: feedloop rollout status. Who served: feedloop history")
    output.finish(until=ended.isoformat(), champion=champion, outcomes=settings.outcomes_uri)
    return 0


@contextmanager
def _gateway(session: Session, plan: Plan) -> Iterator[LiveGateway]:
    settings = session.settings
    token = settings.serving.token.get_secret_value() if settings.serving.token else None
    length = settings.world.slate_size
    if plan.gateway is not None:
        running = LiveGateway(plan.gateway.rstrip("/"), token, settings.online_folder, length)
        # Before a challenger is made that nobody would see.
        running.entry()
        yield running
        return
    with started(session.config, settings.gateway_folder / "simulation.log") as address:
        session.output.say(f"The gateway answers at {address} until the simulation ends.")
        yield LiveGateway(address, token, settings.online_folder, length)


def _set_out(session: Session, plan: Plan, now: datetime) -> Rollout | None:
    """The rollout that is on its way already, or that of a planted challenger."""
    settings, output = session.settings, session.output
    _, ledger = open_both(**settings.store)
    rollout = running(ledger.entries())
    if rollout is not None:
        output.step(f"Rollout {rollout.id} goes on, in stage {rollout.current.name!r}")
        if plan.challenger is not None or plan.strategy not in (None, rollout.strategy):
            output.say(
                f"One at a time, so nobody else sets out: it is {rollout.strategy} of version {rollout.challenger}. "
                "To end it: feedloop rollout abort --reason WHY"
            )
        return rollout
    kind = plan.challenger or (DEFAULT_CHALLENGER if plan.strategy else None)
    if kind is None:
        output.step("No rollout is on its way, and no --challenger was named: the champion answers everybody")
        return None
    from deployments.planted import plant
    from flows.approval import answered_by
    from flows.compare import compare
    from flows.propose import propose
    from tasks.registry import record_evidence

    output.step(f"A challenger that is {kind}, on purpose")
    challenger = plant(kind, settings, now=now, seed=plan.seed)  # type: ignore[arg-type]
    champion = champion_now(**settings.store)
    evidence = compare(champion.version if champion else "", challenger.version, config=session.config, now=now)
    record_evidence.fn(challenger=challenger, evidence=evidence, report=None, **settings.store)
    output.say(f"Version {challenger.version} offline: {evidence.verdict.decision}: {evidence.verdict.reason}")
    _refresh(session, now)
    with answered_by(asker(output, yes=True, because=APPROVED)):
        promotion = propose(
            challenger.version,
            strategy=_strategy(session, plan),
            force=evidence.verdict.decision is not Decision.PROMOTE,
            reason=f"simulate --challenger {kind}",
            requested_by=who(),
            config=session.config,
            now=now,
        )
    output.say(promotion.reason)
    return running(ledger.entries())


def _go_on(
    session: Session, pace: Pace, speed: float | None, visitors: Visitors, start: datetime, rollout: Rollout | None
) -> datetime:
    """Tick after tick, until the time is over or the rollout is."""
    from flows.advance import advance

    settings, gateway, length = session.settings, visitors.gateway, timedelta(minutes=pace.tick_minutes)
    stores, end, had_rollout = open_both(**settings.store), start + timedelta(days=pace.days), rollout is not None
    now = start
    while now < end and (rollout is not None or not had_rollout):
        began, until = time.monotonic(), min(now + length, end)
        routing = current_routing(*stores)
        if routing is not None:
            gateway.follow(routing.entry, PATIENCE_SECONDS)
        pages = visitors.visit(now, until)
        gateway.logged(now, pages, PATIENCE_SECONDS)
        visitors.deliver(until)
        tick = advance(config=session.config, now=until)
        session.output.say(_line(until, pages, rollout, tick, visitors.rates()))
        if tick is not None and tick.rollout.status is RolloutStatus.COMPLETED:
            _ask(session, tick.rollout, until)
        stage = (rollout.id, rollout.stage) if rollout else None
        rollout = running(stores[1].entries())
        if stage != ((rollout.id, rollout.stage) if rollout else None):
            visitors.seen.clear()
        _days_pass(session, until)
        now = until
        if speed is not None:
            time.sleep(max(length.total_seconds() / speed - (time.monotonic() - began), 0.0))
    return now


def _ask(session: Session, rollout: Rollout, now: datetime) -> None:
    """Ask for the promotion of the winner of an A/B test, which was approved as a test and no more."""
    from flows.approval import answered_by
    from flows.propose import propose

    if not isinstance(rollout.current, AbStage):
        return
    with answered_by(asker(session.output, yes=True, because=APPROVED)):
        promotion = propose(
            rollout.challenger,
            reason=f"It has won the A/B test of rollout {rollout.id}.",
            requested_by=who(),
            config=session.config,
            now=now,
        )
    tell_promotion(session, promotion)


def _days_pass(session: Session, now: datetime) -> None:
    """The log goes on behind the traffic: days that are over are in it, and features are as of the last midnight."""
    settings = session.settings
    set_live_until(settings.sample_folder, now)
    feed = SampleFeed(settings.sample_folder, settings.world, settings.data.window_days)
    if feed.now + timedelta(days=1) > now:
        return
    champion = champion_bundle(**settings.store)
    while feed.now + timedelta(days=1) <= now:
        feed.serve(1, champion)
    _refresh(session, now)


def _refresh(session: Session, now: datetime) -> None:
    from flows.refresh import refresh

    refresh(config=session.config, as_of=now, now=now)


def _line(
    now: datetime, pages: int, rollout: Rollout | None, tick: Tick | None, rates: dict[str, tuple[float, float]]
) -> str:
    """One tick in one line."""
    clicks = ", ".join(f"{arm} {seen:.1%} (truth {truth:.1%})" for arm, (seen, truth) in sorted(rates.items()))
    head = f"{now:%a %d %H:%M}  {pages:,} pages, CTR {clicks or 'none'}"
    if rollout is None or tick is None:
        return f"{head}; no rollout is on its way."
    counted = "" if tick.evidence is None else _counted(tick.evidence)
    step = "" if tick.step is None else f"\n    {tick.step.action}: {tick.step.reason}"
    return f"{head}; stage {rollout.current.name!r}{counted}{step}"


def _counted(evidence: StageEvidence) -> str:
    """How much the tick has seen of the stage, in a few words."""
    if evidence.shadow is not None:
        sums, moved = evidence.shadow.sums, evidence.shadow.log_loss
        loss = "" if moved is None else f", log loss {moved.value:+.2%}"
        return f"; {sums.scored:,} of {sums.requests:,} requests scored unseen{loss}"
    canary = [window.canary for window in evidence.windows if window.canary is not None]
    if not canary:
        return ""
    share = control_bad_share(evidence.windows)
    beside = "" if share is None else f" (control {share:.1%})"
    return f"; {sum(s.total for s in canary):,} sessions, {sum(s.bad for s in canary):,} bad{beside}"
