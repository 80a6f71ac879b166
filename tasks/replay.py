"""The policy of today, asked about every comparison that was ever kept: what would it have decided?"""

import logging
import re

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.context import TaskRunContext

from ranking.decision import Decision
from ranking.errors import FeedloopError
from ranking.results import Verdict
from ranking.values import Value
from ranking.verdict import GateKnobs, decide
from settings.effects import RegistryKnobs
from tasks.retries import RETRY
from tasks.stores import open_models
from tasks.uncached import UNCACHED

logger = logging.getLogger("feedloop.replay")


class Replayed(Value):
    """One stored comparison, decided again."""

    version: str
    evidence_digest: str
    recorded: Decision
    verdict: Verdict

    @property
    def changed(self) -> bool:
        """Whether the policy of today decides otherwise."""
        return self.verdict.decision is not self.recorded


class Replay(Value):
    """Every stored comparison under one policy, the oldest version first."""

    replayed: tuple[Replayed, ...]
    unreadable: tuple[str, ...] = ()

    @property
    def changed(self) -> tuple[Replayed, ...]:
        """Those that come out otherwise."""
        return tuple(one for one in self.replayed if one.changed)


@task(name="replay verdicts", timeout_seconds=3600, **RETRY.options, **UNCACHED)
def replay_verdicts(*, gate: GateKnobs, registry: RegistryKnobs, workspace: str) -> Replay:
    """Decide every kept comparison again under ``gate``.  Nothing is trained, recorded or promoted.

    What was not measured then stays unmeasured: a slice or a budget that only this policy names is not in an
    older comparison, and says so in its finding.

    Raises:
        RegistryUnavailable: no answer.
    """
    models = open_models(registry, workspace)
    replayed, unreadable = [], []
    for ref in models.versions():
        for digest in sorted(models.evidence_digests(ref)):
            try:
                evidence = models.evidence(ref, digest)
                if evidence is not None:
                    verdict = decide(evidence.comparison, gate)
                    replayed.append(
                        Replayed(
                            version=ref.version,
                            evidence_digest=digest,
                            recorded=evidence.verdict.decision,
                            verdict=verdict,
                        )
                    )
            except FeedloopError as error:
                unreadable.append(f"version {ref.version}, evidence {digest[:12]}…: {error}")
    done = Replay(replayed=tuple(replayed), unreadable=tuple(unreadable))
    logger.info("%d of %d stored verdicts come out otherwise", len(done.changed), len(done.replayed))
    if TaskRunContext.get() is not None:
        key = re.sub(r"[^a-z0-9]+", "-", f"replay {registry.model_name}".lower())
        create_markdown_artifact(replay_markdown(done), key=key, description="Stored verdicts under today's policy")
    return done


def replay_markdown(done: Replay) -> str:
    """The replay in words, those that changed first."""
    lines = [
        f"# {len(done.changed)} of {len(done.replayed)} stored verdicts come out otherwise under today's policy",
        "",
        "| version | evidence | then | now |",
        "| ---: | --- | --- | --- |",
        *(
            f"| {one.version} | `{one.evidence_digest[:12]}` | {one.recorded} | {one.verdict.decision} |"
            for one in done.replayed
        ),
        "",
        *map(_change, done.changed),
        *(f"- Not read: {' '.join(what.split())}" for what in done.unreadable),
    ]
    return "\n".join(lines) + "\n"


def _change(one: Replayed) -> str:
    reason = " ".join(one.verdict.reason.split())
    return f"- **Version {one.version}: {one.recorded} → {one.verdict.decision}.** {reason}"
