"""Team-draft interleaving: fair lists, and a preference by users."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.errors import ComparisonError
from ranking.interleaving import NOBODY, A, B, Preferred, draft, preference

orders = st.integers(1, 12).flatmap(
    lambda n: st.tuples(st.permutations(range(n)), st.permutations(range(n)), st.integers(0, n + 2))
)


@given(orders, st.text(max_size=5))
def test_a_list_has_every_item_once_and_the_teams_differ_by_at_most_one_pick(given_orders, request_id):
    champion, challenger, length = given_orders
    mixed = draft(champion, challenger, length, salt="s", request=request_id)
    assert len(set(mixed.items)) == len(mixed.items) == len(mixed.teams) == min(length, len(champion))
    assert abs(mixed.teams.count(A) - mixed.teams.count(B)) <= 1


@given(orders, st.text(max_size=5))
def test_every_pick_is_its_teams_best_item_that_was_left(given_orders, request_id):
    champion, challenger, length = given_orders
    mixed = draft(champion, challenger, length, salt="s", request=request_id)
    for place, (item, team) in enumerate(zip(mixed.items, mixed.teams, strict=True)):
        left = [other for other in (challenger if team == B else champion) if other not in mixed.items[:place]]
        assert item == left[0]


def test_the_same_request_gets_the_same_list_and_others_other_coins():
    lists = {draft("abcdef", "fedcba", 6, salt="s", request=str(n)).items for n in range(200)}
    assert draft("abcdef", "fedcba", 6, salt="s", request="7") == draft("abcdef", "fedcba", 6, salt="s", request="7")
    assert len(lists) > 3


def test_each_model_picks_first_as_often_as_a_fair_coin():
    first = [draft("ab", "ba", 2, salt="s", request=str(n)).teams[0] for n in range(20_000)]
    assert np.mean(first) == pytest.approx(0.5, abs=0.015)
    second_round = [draft("abcd", "dcba", 4, salt="s", request=str(n)).teams[2] for n in range(20_000)]
    assert np.corrcoef(first, second_round)[0, 1] == pytest.approx(0.0, abs=0.03)


def test_what_both_would_show_first_is_nobodys_pick():
    mixed = draft("abcd", "abdc", 4, salt="s", request="1")
    assert mixed.items[:2] == ("a", "b")
    assert mixed.teams[:2] == (NOBODY, NOBODY)
    assert set(mixed.teams[2:]) == {A, B}
    assert draft("abc", "abc", 2, salt="s", request="1").teams == (NOBODY, NOBODY)


def test_lists_of_different_items_are_filled_from_both():
    for one, other in permutations((("a",), ("x", "y", "z"))):
        assert set(draft(one, other, 9, salt="s", request="1").items) == {"a", "x", "y", "z"}


def votes(seed: int, *, users: int, lift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users with tastes of their own: some prefer A for good, some B; lift moves all towards B."""
    rng = np.random.default_rng(seed)
    visits = 1 + rng.poisson(rng.lognormal(0, 1, users))
    who = np.repeat(np.arange(users), visits)
    leaning = np.repeat(rng.normal(0, 0.5, users), visits)
    chance = np.clip(0.3 * np.exp(leaning), 0, 1)
    return who, rng.binomial(1, np.clip(0.6 - chance, 0, 1)), rng.binomial(1, np.clip(chance * (1 + lift), 0, 1))


def test_a_better_challenger_is_preferred_and_says_by_how_much():
    found = preference(*votes(1, users=3_000, lift=0.3))
    assert found.preferred is Preferred.CHALLENGER
    assert found.reason.startswith("Users prefer the challenger: the challenger won ")
    assert found.surplus.low > 0


def test_the_preference_is_a_clustered_regression():
    import statsmodels.api as sm

    who, a, b = votes(2, users=500, lift=0.1)
    found = preference(who, a, b)
    fitted = sm.OLS(np.sign(b - a), np.ones(len(who))).fit(
        cov_type="cluster", cov_kwds={"groups": who, "use_correction": False}
    )
    assert found.z == pytest.approx(fitted.tvalues[0] * np.sqrt(499 / 500), rel=1e-9)


def test_equal_models_are_preferred_as_seldom_as_promised_although_users_have_tastes():
    decided = 0
    for seed in range(400):
        rng = np.random.default_rng([3, seed])
        who = np.repeat(np.arange(300), 1 + rng.poisson(rng.lognormal(0.5, 1, 300)))
        leaning = np.repeat(rng.choice([-0.25, 0.25], 300), np.bincount(who))
        a, b = rng.binomial(1, 0.5 - leaning), rng.binomial(1, 0.5 + leaning)
        decided += preference(who, a, b).preferred is not Preferred.UNDECIDED
    assert decided / 400 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)


def test_nothing_to_compare_is_undecided():
    for clicks in (([0, 0], [0, 0]), ([1, 1], [1, 1])):
        found = preference([0, 1], *clicks)
        assert (found.preferred, found.z, found.surplus) == (Preferred.UNDECIDED, None, None)
        assert found.reason.startswith("Nothing to compare")
    assert preference(np.array([], dtype=int), [], []).requests == 0
    assert preference([0, 0], [0, 1], [1, 1]).z is None


def test_counts_for_other_requests_are_refused():
    with pytest.raises(ComparisonError, match="one count for each model"):
        preference([0, 1], [1, 0], [1])
