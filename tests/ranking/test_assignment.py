"""Assignment: published cases, and one answer in Python, SQL, JavaScript and any process."""

import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.assignment import (
    CONTROL,
    REST,
    TREATMENT,
    Arm,
    Namespace,
    RoutingTable,
    assign,
    assign_many,
    bucket_ranges,
    choose,
    may_share_users,
    reserve,
    split,
)
from ranking.assignment_sql import arm_sql, bucket_sql
from ranking.errors import InvalidInteractions, SettingsError
from ranking.hashing import BUCKETS, bucket, buckets, fnv1a, namespace_part, namespace_parts

ROOT = Path(__file__).parents[2]
CASES = json.loads(Path(__file__).with_name("growthbook_assignment_cases.json").read_text(encoding="utf-8"))
MILLION = np.arange(1_000_000)
SALTS = ("feed-2026-01-05:", "feed-2026-02-01:", "canary 17:")
AWKWARD = ["", "7", "07", "é", "\u4f60\u597d", "it's", "a" * 300, "🙂", "user-00000000000001", '"', "\\", "0" * 10]


def table(share: float, *, salt: str = SALTS[0], namespace: Namespace | None = None) -> RoutingTable:
    return RoutingTable(
        rollout="r", champion="1", salt=salt, namespace=namespace, arms=split("1", "2", share), stage_name="test"
    )


@pytest.mark.parametrize(("seed", "value", "version", "expected"), CASES["hash"])
def test_the_published_hashes_come_out(seed, value, version, expected):
    ours = {
        1: lambda: fnv1a(value + seed) % 1000 / 1000,
        2: lambda: bucket(seed, value) / BUCKETS,
    }
    if version in ours:
        assert ours[version]() == expected
    else:
        assert expected is None


REPAIRED = {
    "negative coverage": "no share of users",
    "coverage above 1": "no share of users",
    "weights sum below 1": "sum to 0.5",
    "weights sum above 1": "sum to 1.3",
}


@pytest.mark.parametrize(("name", "given", "expected"), CASES["getBucketRange"], ids=lambda value: str(value)[:40])
def test_the_published_bucket_ranges_come_out_and_what_is_repaired_there_is_refused_here(name, given, expected):
    arms, coverage, weights = given
    if name == "weights.length not equal to num variations":
        weights = None  # there a wrong list counts as none; here the list is the number of arms
    weights = weights or [1 / arms] * arms
    if name in REPAIRED:
        with pytest.raises(SettingsError, match=re.escape(REPAIRED[name])):
            bucket_ranges(weights, coverage)
    else:
        assert bucket_ranges(weights, coverage) == tuple((round(a * BUCKETS), round(b * BUCKETS)) for a, b in expected)


@pytest.mark.parametrize(
    ("name", "place", "ranges", "expected"), CASES["chooseVariation"], ids=lambda value: str(value)[:20]
)
def test_the_published_choices_come_out(name, place, ranges, expected):
    chosen = choose(round(place * BUCKETS), [(round(a * BUCKETS), round(b * BUCKETS)) for a, b in ranges])
    assert (-1 if chosen is None else chosen) == expected


@pytest.mark.parametrize(("name", "user", "slice_", "expected"), CASES["inNamespace"])
def test_the_published_namespaces_come_out(name, user, slice_, expected):
    namespace, start, end = slice_
    assert Namespace(name=namespace, start=round(start * 1000), end=round(end * 1000)).holds(user) is expected


@pytest.mark.parametrize(("share", "salt"), [*product((0.01, 0.1), SALTS), (0.5, SALTS[2])])
def test_a_million_users_fall_into_shares_within_a_tenth_of_a_point(share, salt):
    found = assign_many(table(share, salt=salt), MILLION)
    for arm in (TREATMENT, CONTROL):
        assert abs(found.users_in(arm) / len(MILLION) - share) < 0.001


def test_halves_are_off_by_as_much_as_a_fair_coin():
    # at one half and a million users chance alone is 0.05 points, so one salt in twenty is off by 0.1
    halves = np.array([(buckets(f"salt {number}:", MILLION[:100_000]) < BUCKETS // 2).sum() for number in range(40)])
    z = (halves - 50_000) / np.sqrt(25_000)
    assert np.abs(z).max() < 4
    assert 0.7 < z.std() < 1.3


def test_buckets_are_as_even_as_chance_and_salts_are_independent():
    from scipy.stats import chi2

    one, two = buckets(SALTS[0], MILLION), buckets(SALTS[1], MILLION)
    even = np.bincount(one, minlength=BUCKETS)
    assert 0.001 < chi2.sf((((even - 100) ** 2) / 100).sum(), BUCKETS - 1) < 0.999
    both = np.histogram2d(one // 1000, two // 1000, bins=10)[0]
    assert chi2.sf(((both - 10_000) ** 2 / 10_000).sum(), 99) > 0.001


def test_nobody_leaves_the_treatment_or_changes_arm_while_the_share_rises():
    tables = [table(share) for share in (0.01, 0.1, 0.25, 0.5)]
    arms = [assign_many(t, MILLION) for t in tables]
    for before, after in pairwise(arms):
        for code in (0, 1):
            assert (after.codes[before.codes == code] == code).all()
    everybody = assign_many(table(1.0), MILLION)
    assert everybody.users_in(TREATMENT) == len(MILLION)


@settings(max_examples=200)
@given(st.text(), st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_user_of_the_treatment_stays_there_at_any_higher_share(user, one, other):
    low, high = sorted((one, other))
    if assign(table(low), user).arm == TREATMENT:
        assert assign(table(high), user).arm == TREATMENT


@pytest.mark.parametrize("share", [0.01, 0.1, 0.37, 0.5])
def test_the_control_is_as_large_as_the_canary(share):
    treatment, control = table(share).arms
    assert treatment.end - treatment.start == control.end - control.start == round(share * BUCKETS)
    assert table(share).share_of(REST) == pytest.approx(1 - 2 * share)


def test_a_share_that_leaves_a_smaller_control_is_refused():
    with pytest.raises(SettingsError, match=r"0\.6 leaves no control of the same size"):
        split("1", "2", 0.6)


def test_two_slices_of_a_namespace_share_no_user():
    first = reserve("feed", 0.4, taken=())
    second = reserve("feed", 0.6, taken=(first,))
    assert not may_share_users(first, second)
    assert may_share_users(first, Namespace(name="other"))
    assert may_share_users(None, second)
    a, b = (assign_many(table(0.5, namespace=slice_), MILLION) for slice_ in (first, second))
    assert not ((a.codes < 2) & (b.codes < 2)).any()
    assert abs(a.users_in(TREATMENT) / len(MILLION) - 0.2) < 0.002
    with pytest.raises(SettingsError, match=r"no gap of 10\.0% .* the widest is 0\.0%"):
        reserve("feed", 0.1, taken=(first, second))


def test_a_gap_between_two_slices_is_found():
    taken = (Namespace(name="feed", start=0, end=300), Namespace(name="feed", start=500, end=1000))
    assert reserve("feed", 0.2, taken) == Namespace(name="feed", start=300, end=500)
    assert reserve("feed", 0.2, (*taken, Namespace(name="other", start=300, end=500))).start == 300


@settings(max_examples=100)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=20),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_many_at_once_are_as_one_by_one(users, salt):
    assert buckets(salt, users).tolist() == [bucket(salt, user) for user in users]
    assert namespace_parts(salt, users).tolist() == [namespace_part(salt, user) for user in users]


def test_an_id_is_the_same_user_however_it_is_stored():
    expected = [bucket("s", user) for user in (7, 70, 2**40)]
    for stored in ([7, 70, 2**40], ["7", "70", str(2**40)], np.array([7.0, 70.0, 2.0**40]), pa.array([7, 70, 2**40])):
        assert buckets("s", stored).tolist() == expected
    chunks = pa.chunked_array([pa.array(["x", "7"]).slice(1), pa.array(["70", str(2**40)])])
    assert buckets("s", chunks).tolist() == expected
    assert bucket("s", "07") != bucket("s", 7)


def test_a_missing_user_is_refused_with_the_numbers():
    with pytest.raises(InvalidInteractions, match="1 of 3 users are missing"):
        buckets("s", pa.array(["a", None, "b"]))


def test_no_users_have_no_buckets():
    assert buckets("s", []).tolist() == []
    assert assign_many(table(0.1), pa.array([], pa.string())).users_in(TREATMENT) == 0


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_another_process_with_another_hash_seed_gives_the_same_arms(hash_seed):
    code = (
        f"from ranking.hashing import bucket\nprint([bucket({SALTS[0]!r}, user) for user in [*range(200), 'a', 'é']])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
    )
    assert json.loads(done.stdout) == [bucket(SALTS[0], user) for user in [*range(200), "a", "é"]]


@pytest.mark.parametrize(
    "namespace", [None, Namespace(name="it's", start=100, end=700)], ids=["everybody", "namespace"]
)
def test_sql_gives_the_same_buckets_and_arms(namespace):
    users = pa.table(
        {"user id": [*AWKWARD, *(str(user) for user in range(5_000)), *(f"ü-{user}" for user in range(500))]}
    )
    routed = table(0.2, salt="it's: é", namespace=namespace)
    with duckdb.connect() as connection:
        connection.register("users", users)
        place, arm = bucket_sql(routed.salt, '"user id"'), arm_sql(routed, '"user id"')
        found = connection.execute(f"SELECT {place}, {arm} FROM users").fetchall()  # noqa: S608 - what is tested
    assigned = assign_many(routed, users["user id"])
    assert [row[0] for row in found] == buckets(routed.salt, users["user id"]).tolist()
    assert [row[1] for row in found] == [assigned.arms[code] for code in assigned.codes]
    assert {arm for _, arm in found} == {TREATMENT, CONTROL, REST}


def test_sql_reads_whole_numbers_as_text_and_gives_no_arm_to_nobody():
    with duckdb.connect() as connection:
        place = bucket_sql("s", "n")
        numbers = connection.execute(f"SELECT {place} FROM range(100) AS r(n)").fetchall()  # noqa: S608 - what is tested
        nobody = connection.execute(f"SELECT {arm_sql(table(0.5), 'CAST(NULL AS VARCHAR)')}").fetchone()
    assert [row[0] for row in numbers] == [bucket("s", n) for n in range(100)]
    assert nobody == (None,)


def test_the_javascript_of_the_docs_gives_the_same_buckets():
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    page = (ROOT / "docs" / "ab_testing.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```js\n(.*?)```", page, flags=re.DOTALL)
    users = [*AWKWARD, *(str(user) for user in range(1_000))]
    call = f"console.log(JSON.stringify({json.dumps(users)}.map(u => bucket({json.dumps('it is: é')}, u))))"
    done = subprocess.run([node, "-e", f"{snippet}\n{call}"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [bucket("it is: é", user) for user in users]


def test_one_user_is_told_the_version_the_bucket_and_the_propensity():
    routed = table(0.1, namespace=Namespace(name="n", end=500))
    for user in range(200):
        given = assign(routed, user)
        assert given.bucket == bucket(routed.salt, user)
        assert given.version == ("2" if given.arm == TREATMENT else "1")
        assert given.propensity == pytest.approx(0.05 if given.arm != REST else 0.9)


def test_a_table_names_every_version_that_must_be_loaded():
    assert table(0.1).versions == ("1", "2")
    assert RoutingTable(rollout="", champion="1", salt="").versions == ("1",)
    assert RoutingTable(rollout="r", champion="1", salt="r", shadow="3", shadow_share=0.1).versions == ("1", "3")


def test_arms_that_overlap_or_share_a_name_are_refused():
    arms = (Arm(name="a", version="1", start=0, end=10), Arm(name="b", version="2", start=9, end=20))
    with pytest.raises(ValueError, match="a and b overlap at bucket 9"):
        RoutingTable(rollout="r", champion="1", salt="s", arms=arms)
    with pytest.raises(ValueError, match="names of their own"):
        RoutingTable(
            rollout="r", champion="1", salt="s", arms=(arms[0], arms[0].model_copy(update={"start": 20, "end": 30}))
        )


def test_a_table_survives_json():
    routed = table(0.1, namespace=Namespace(name="n", end=500))
    assert RoutingTable.model_validate_json(routed.model_dump_json()) == routed
