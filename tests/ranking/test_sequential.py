"""Sequential tests against published bounds, their own promises, and brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ranking.errors import ComparisonError
from ranking.sequential import (
    Batches,
    confidence_sequence_bound,
    crossings,
    final_bound,
    harm_log_evidence,
    imbalance_log_evidence,
    rarity_log_evidence,
    safety_log_evidence,
)

RATIOS = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0)


def evenly(looks: int) -> list[float]:
    return [look / looks for look in range(1, looks + 1)]


@pytest.mark.parametrize(("looks", "chance"), [(2, 0.042), (4, 0.063), (10, 0.097), (20, 0.124)])
def test_the_published_chances_of_peeking_come_out(looks, chance):
    assert crossings(evenly(looks), [1.96] * looks).upper.sum() == pytest.approx(chance, abs=0.0005)


def test_the_published_obrien_fleming_bounds_spend_the_error_as_they_promise():
    times, bounds = [0.2, 0.4, 0.6, 0.8, 1.0], [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]
    spent = np.cumsum(crossings(times, bounds).upper)
    promised = [2 * stats.norm.sf(stats.norm.ppf(1 - 0.025 / 2) / np.sqrt(time)) for time in times]
    assert spent == pytest.approx(promised, rel=2e-3)
    assert crossings(times, bounds).total == pytest.approx(0.05, abs=2e-5)


def test_one_look_is_the_normal_distribution():
    once = crossings([1.0], [1.96], drift=2.8)
    assert once.upper[0] == pytest.approx(stats.norm.sf(1.96 - 2.8))
    assert once.lower[0] == pytest.approx(stats.norm.cdf(-1.96 - 2.8))


def test_the_recursion_agrees_with_simulated_walks():
    rng = np.random.default_rng(1)
    walks = np.cumsum(rng.normal(1.0 / 8, np.sqrt(1 / 8), (200_000, 8)), axis=1) / np.sqrt(evenly(8))
    bounds = [3.0] * 7 + [2.0]
    crossed = (np.abs(walks) > bounds).any(axis=1).mean()
    assert crossings(evenly(8), bounds, drift=1.0).total == pytest.approx(crossed, abs=0.004)


@pytest.mark.parametrize("looks", [1, 7, 14, 28, 56])
def test_the_last_bound_makes_all_looks_together_err_as_often_as_asked(looks):
    bound = final_bound(looks, 3.29, 0.05)
    assert crossings(evenly(looks), [3.29] * (looks - 1) + [bound]).total == pytest.approx(0.05, abs=1e-5)
    assert 1.95 < bound < 2.04


def test_interim_looks_that_use_up_the_error_are_refused():
    with pytest.raises(ComparisonError, match=r"30 looks at ±2 already err with more than 5\.0%"):
        final_bound(30, 2.0, 0.05)


def test_looks_that_do_not_rise_are_refused():
    with pytest.raises(ComparisonError, match="rising"):
        crossings([0.5, 0.5], [2.0, 2.0])


def windows(canary, canary_bad, control, control_bad) -> Batches:
    return Batches(
        *(np.atleast_1d(np.asarray(column, dtype=float)) for column in (canary, canary_bad, control, control_bad))
    )


def test_one_window_of_harm_evidence_is_the_formula_by_hand():
    share, bad, others = 0.25, 6.0, 9.0

    def likelihood(ratio: float) -> float:
        chance = share * ratio / (1 - share + share * ratio)
        return chance**bad * (1 - chance) ** others

    by_hand = np.log(np.mean([likelihood(ratio) / likelihood(1.25) for ratio in RATIOS]))
    assert harm_log_evidence(windows(100, bad, 300, others), 1.25, RATIOS) == pytest.approx(by_hand)
    safe = np.log(likelihood(1.0) / likelihood(5.0))
    assert safety_log_evidence(windows(100, bad, 300, others), 5.0) == pytest.approx(safe)


def test_windows_add_up_and_one_armed_windows_say_nothing():
    whole = windows([100, 50, 0, 80], [3, 4, 0, 7], [100, 70, 90, 0], [2, 1, 5, 0])
    split = sum(windows(*row).log_likelihoods([2.0, 5.0]) for row in [(100, 3, 100, 2), (50, 4, 70, 1)])
    assert whole.log_likelihoods([2.0, 5.0]) == pytest.approx(split)
    assert harm_log_evidence(windows([], [], [], []), 1.25, RATIOS) == pytest.approx(0.0)


def paths(rng, ratio: float, looks: int, runs: int, base: float = 0.01, sessions: int = 200) -> tuple[np.ndarray, ...]:
    """Bad sessions of both arms, (runs, looks) each."""
    return rng.binomial(sessions, base * ratio, (runs, looks)), rng.binomial(sessions, base, (runs, looks))


def ever(evidence, bad: np.ndarray, others: np.ndarray, threshold: float, sessions: int = 200) -> float:
    """Share of runs whose evidence exceeds the threshold at any look."""
    runs, looks = bad.shape
    crossed = 0
    for run in range(runs):
        crossed += any(
            evidence(windows([sessions] * look, bad[run, :look], [sessions] * look, others[run, :look])) >= threshold
            for look in range(1, looks + 1)
        )
    return crossed / runs


def test_harm_is_hardly_ever_seen_where_the_risk_is_only_tolerated_and_soon_seen_where_it_is_fivefold():
    rng = np.random.default_rng(2)

    def evidence(batches: Batches) -> float:
        return harm_log_evidence(batches, 1.25, RATIOS)

    threshold = -np.log(0.05)
    assert ever(evidence, *paths(rng, 1.25, 50, 300), threshold) <= 0.05
    assert ever(evidence, *paths(rng, 5.0, 50, 100), threshold) == 1.0


def test_a_fivefold_risk_is_hardly_ever_called_safe():
    rng = np.random.default_rng(3)
    threshold = -np.log(0.05)
    assert ever(lambda b: safety_log_evidence(b, 5.0), *paths(rng, 5.0, 50, 300), threshold) <= 0.05
    assert ever(lambda b: safety_log_evidence(b, 5.0), *paths(rng, 1.0, 50, 100), threshold) > 0.99


def test_rare_trouble_is_called_rare_and_common_trouble_hardly_ever():
    assert rarity_log_evidence(3_000, 0, 0.005) > -np.log(0.05)
    assert rarity_log_evidence(3_000, 15, 0.005) < 0
    rng = np.random.default_rng(4)
    bad = np.cumsum(rng.binomial(50, 0.005, (2_000, 200)), axis=1)
    seen = 50 * np.arange(1, 201)
    evidence = bad * np.log(0.1) + (seen - bad) * (np.log1p(-0.0005) - np.log1p(-0.005))
    assert evidence[0, 9] == pytest.approx(rarity_log_evidence(500, int(bad[0, 9]), 0.005))
    assert (evidence >= -np.log(0.05)).any(axis=1).mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 2_000)


def test_a_fair_split_is_hardly_ever_called_uneven_however_often_one_looks():
    rng = np.random.default_rng(5)
    ours = np.cumsum(rng.binomial(50, 0.5, (500, 100)), axis=1)
    both = 50 * np.arange(1, 101)
    crossed = [
        any(imbalance_log_evidence(int(a), int(n - a)) >= np.log(20) for a, n in zip(row, both, strict=True))
        for row in ours
    ]
    assert np.mean(crossed) <= 0.05
    assert imbalance_log_evidence(600, 400) > np.log(1_000)


@given(st.integers(0, 200), st.integers(0, 200))
def test_the_evidence_of_imbalance_is_the_beta_binomial_over_the_binomial(a, b):
    mixture = stats.betabinom.logpmf(a, a + b, 1, 1) - stats.binom.logpmf(a, a + b, 0.5)
    assert imbalance_log_evidence(a, b) == pytest.approx(mixture, abs=1e-9)


def test_the_confidence_sequence_holds_at_all_times_and_is_tightest_when_planned():
    rng = np.random.default_rng(6)
    steps = 400
    walks = np.cumsum(rng.normal(0, 1, (4_000, 4 * steps)), axis=1)
    seen = np.arange(1, 4 * steps + 1)
    bounds = np.array([confidence_sequence_bound(n / steps, 0.05) for n in seen])
    assert (np.abs(walks / np.sqrt(seen)) > bounds).any(axis=1).mean() <= 0.05
    widths = bounds / np.sqrt(seen)
    alternatives = [confidence_sequence_bound(1.0 * scale, 0.05) for scale in (0.25, 4.0)]
    assert confidence_sequence_bound(1.0, 0.05) < min(alternatives)
    assert (np.diff(widths) < 0).all()


def test_no_information_has_no_bound():
    with pytest.raises(ComparisonError, match="wait for data"):
        confidence_sequence_bound(0.0, 0.01)
