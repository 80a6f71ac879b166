"""``feedloop run``: the whole loop told in plain words, on the sample feed or on a user's own log."""

from datetime import datetime

from rich.progress import Progress

from deployments.commands import turn
from deployments.session import Session
from ranking.results import Promotion, Retraining
from ranking.times import as_utc
from settings.model import Settings
from tasks.data import moment_at_share
from tasks.registry import champion_bundle, champion_now
from tasks.sample import SampleFeed

FIRST_DAYS = 10
LATER_DAYS = 21
FIRST_SHARE = 0.7
"""Share of a user's own log, by time, from which the first champion is made."""


def tell(session: Session, *, yes: bool) -> int:
    """Play the loop: first champion, later data, challenger, comparison, verdict, approval, new champion.

    With a champion in place the story starts at "later data".  Without an approval it stops there.
    """
    turns = _on_sample(session, yes=yes) if session.settings.is_sample else _on_own_log(session, yes=yes)
    output, last = session.output, turns[-1]
    output.step("Where things stand")
    champion = champion_now(session.settings.registry, session.settings.workspace)
    if champion is None:
        output.say("There is no champion yet. Run again with --yes, or at a terminal, to approve one.")
    else:
        output.say(f"Champion: version {champion.version}, digest {champion.digest[:16]}.")
        output.say(f'Load it anywhere: mlflow.pyfunc.load_model("models:/{champion.name}@champion")')
        output.say("See who served and why: feedloop status, feedloop history")
    if last.promotion is not None and last.promotion.status == "promoted" and last.promotion.previous is not None:
        output.say(f'To go back to version {last.promotion.previous.version}: feedloop rollback --reason "…"')
    output.say(f"The report with pictures: {last.report.html_uri}")
    output.finish(
        runs=list(turns),
        comparison=last.comparison,
        verdict=last.verdict,
        promotion=last.promotion,
        champion=champion,
    )
    return 0


def _on_sample(session: Session, *, yes: bool) -> list[Retraining]:
    settings, output = session.settings, session.output
    feed = SampleFeed(settings.sample_folder, settings.world, settings.data.window_days)
    turns = []
    if champion_now(**settings.store) is None:
        output.step("A feed without a ranker")
        world = settings.world
        output.say(
            f"{world.users:,} users and {world.items:,} items; tastes drift, new items arrive. "
            f"For {FIRST_DAYS} days the newest items come first."
        )
        if feed.days < FIRST_DAYS:
            _serve(session, feed, FIRST_DAYS - feed.days)
        output.step("The first champion")
        turns.append(turn(session, cutoff=None, now=feed.now, yes=yes))
        if not _promoted(turns[-1]):
            return turns
    output.step(f"Later data: the champion ranks the next {LATER_DAYS} days")
    start = feed.days
    _serve(session, feed, LATER_DAYS)
    before, after = feed.click_rate(range(start)), feed.click_rate(range(start, feed.days))
    output.say(f"True click rate of what was shown: {before:.1%} on the {start} days before, {after:.1%} since.")
    output.step("A challenger, trained on the newer data")
    return [*turns, turn(session, cutoff=None, now=feed.now, yes=yes)]


def serve_days(session: Session, days: int) -> SampleFeed:
    """Let the champion, if there is one, serve more days of the sample feed."""
    settings = session.settings
    feed = SampleFeed(settings.sample_folder, settings.world, settings.data.window_days)
    _serve(session, feed, days)
    return feed


def _serve(session: Session, feed: SampleFeed, days: int) -> None:
    settings = session.settings
    champion = champion_bundle(**settings.store)
    with Progress(console=session.output.console, transient=True) as progress:
        bar = progress.add_task("serving the feed", total=days)
        feed.serve(days, champion, on_day=lambda _: progress.advance(bar))
    session.output.say(f"{len(feed.log()):,} impressions in the log until {as_utc(feed.now)}.")


def _on_own_log(session: Session, *, yes: bool) -> list[Retraining]:
    settings, output = session.settings, session.output
    turns = []
    if champion_now(**settings.store) is None:
        cutoff = _first_cutoff(settings)
        output.step("The first champion")
        output.say(f"There is none yet: it is made from the first {FIRST_SHARE:.0%} of {settings.data.uri}.")
        turns.append(turn(session, cutoff=cutoff, now=None, yes=yes))
        if not _promoted(turns[-1]):
            return turns
    output.step("Later data, and a challenger trained on it")
    return [*turns, turn(session, cutoff=None, now=None, yes=yes)]


def _first_cutoff(settings: Settings) -> datetime:
    return moment_at_share(settings.data, FIRST_SHARE)


def _promoted(retraining: Retraining) -> bool:
    promotion: Promotion | None = retraining.promotion
    return promotion is not None and promotion.status == "promoted"
