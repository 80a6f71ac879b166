"""Stored comparisons under another policy."""

from pathlib import Path

from ranking.decision import Decision
from ranking.verdict import GateKnobs
from settings.effects import RegistryKnobs
from tasks.replay import replay_markdown, replay_verdicts
from tests.examples import evidence
from tests.tasks.tiny_models import evidence_about, open_shop, with_database


def test_a_stricter_policy_changes_the_verdicts_that_rested_on_a_small_gain(tmp_path: Path) -> None:
    shop = open_shop(with_database(tmp_path))
    champion, challenger = shop.register(1), shop.register(2)
    shop.registry.record(champion, evidence_about(champion, None))
    known = evidence()
    compared = known.comparison.model_copy(update={"challenger": challenger, "champion": champion})
    shop.registry.record(challenger, known.model_copy(update={"comparison": compared}))
    store = {"registry": RegistryKnobs(), "workspace": str(tmp_path)}

    lenient = replay_verdicts.fn(gate=GateKnobs(min_score_correlation=0.5), **store)
    assert [one.version for one in lenient.replayed] == ["1", "2"]
    assert lenient.replayed[1].verdict.decision is Decision.PROMOTE

    strict = replay_verdicts.fn(gate=GateKnobs(min_score_correlation=0.5, min_auc_improvement=0.2), **store)
    after = strict.replayed[1].verdict
    assert after.decision is Decision.A_B_TEST
    assert "less than the 0.2000 that a promotion needs" in after.reason
    told = [one.changed for one in strict.replayed]
    assert replay_markdown(strict).startswith(f"# {sum(told)} of 2 stored verdicts come out otherwise")
    assert shop.registry.evidence(challenger).verdict == known.verdict
