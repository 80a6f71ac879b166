"""What a simulated app sends, and when it learns what became of a page."""

from datetime import timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from deployments.gateway.schemas import RankRequest
from deployments.live_gateway import LiveGateway, page_requests
from deployments.visitors import Visitors
from ranking.errors import GatewayUnavailable
from ranking.exposures import EXPOSURES, REQUESTS
from ranking.traffic import Traffic
from ranking.world import WorldKnobs

KNOBS = WorldKnobs(users=100, items=60, candidates_per_request=6, slate_size=3)
HOUR = timedelta(hours=1)


def test_a_page_is_asked_for_in_the_gateways_own_schema_with_its_time() -> None:
    rows = Traffic(KNOBS, requests_per_day=50).day(0)
    _, page = next(iter(rows.groupby("request_id", sort=False)))
    asked = RankRequest.model_validate(next(page_requests(page, 3)))
    assert asked.ids == page["item_id"].tolist()
    assert (asked.user, asked.length) == (page["user_id"].iloc[0], 3)
    assert asked.time == page["timestamp"].iloc[0].to_pydatetime()
    assert set(asked.context) == {"ctx_hour"}


def test_outcomes_arrive_once_each_when_their_labels_are_final(tmp_path: Path) -> None:
    traffic = Traffic(KNOBS, requests_per_day=400)
    visitors = Visitors(traffic, LiveGateway("http://127.0.0.1:9", None, "", 3), str(tmp_path / "out"), 2 * HOUR)
    arrived = []
    for hour in range(8, 14):
        now = KNOBS.start + hour * HOUR
        rows = traffic.between(now - HOUR, now)
        visitors.note(on_top(rows))
        visitors.deliver(now)
        known = ds.dataset(tmp_path / "out", format="parquet").to_table() if (tmp_path / "out").exists() else None
        arrived.append(0 if known is None else known.num_rows)
    assert arrived[:2] == [0, 0]
    assert known is not None
    times = known["timestamp"].to_pandas()
    assert times.max() < now - 2 * HOUR
    keys = known.select(["request_id", "item_id"]).to_pandas()
    assert not keys.duplicated().any()
    assert known.num_rows == 3 * traffic.between(KNOBS.start + 7 * HOUR, now - 2 * HOUR)["request_id"].nunique()
    assert 0 < visitors.rates()["control"][0] < 1


def test_a_simulation_that_was_broken_off_asks_for_no_page_twice_and_loses_no_click(tmp_path: Path) -> None:
    traffic = Traffic(KNOBS, requests_per_day=400)
    now = KNOBS.start + 12 * HOUR
    # Before it was broken off at 12:40, it had shown this; the last outcomes that arrived were those of 10:00.
    shown = on_top(traffic.between(now - 3 * HOUR, now + 2 / 3 * HOUR))
    log(tmp_path / "online", shown)
    visitors = Visitors(
        traffic, LiveGateway("http://127.0.0.1:9", None, str(tmp_path / "online"), 3), str(tmp_path / "out"), 2 * HOUR
    )
    visitors.recall(now)
    assert (
        visitors.visit(now, now + HOUR / 2)
        == shown[shown["timestamp"].between(now, now + HOUR / 2)]["request_id"].nunique()
    )
    with pytest.raises(GatewayUnavailable, match="does not answer"):
        visitors.visit(now, now + HOUR)
    visitors.deliver(now + 3 * HOUR)
    arrived = ds.dataset(tmp_path / "out", format="parquet").to_table().to_pandas()
    due = traffic.outcomes(shown[shown["timestamp"] >= now - 2 * HOUR])
    assert len(arrived) == len(due)
    pd.testing.assert_series_equal(arrived["click"], due["click"].reset_index(drop=True))


def test_pages_of_another_crowd_have_other_numbers() -> None:
    pages = [set(Traffic(KNOBS, requests_per_day=50, seed=seed).day(0)["request_id"]) for seed in (0, 1)]
    assert not pages[0] & pages[1]


def test_an_address_without_a_gateway_is_told_before_anything_else() -> None:
    with pytest.raises(GatewayUnavailable, match=r"does not answer.*feedloop serve"):
        LiveGateway("http://127.0.0.1:9", None, "", 3).entry()


def on_top(rows: pd.DataFrame) -> pd.DataFrame:
    """Three candidates of every page, as a gateway shows them."""
    top = rows.groupby("request_id", sort=False).head(3)
    return top.assign(position=top.groupby("request_id").cumcount() + 1, arm="control", version="1")


def log(folder: Path, shown: pd.DataFrame) -> None:
    """What a gateway logs of it."""
    told = shown.rename(columns={"item_id": "item", "user_id": "user", "timestamp": "time"})
    told = told.astype({"request_id": "string", "item": "string", "user": "string"})
    for name, schema, rows in (
        ("requests", REQUESTS, told.drop_duplicates("request_id")),
        ("exposures", EXPOSURES, told),
    ):
        kept = [field for field in schema if field.name in rows.columns]
        table = pa.Table.from_pandas(rows[[field.name for field in kept]], pa.schema(kept), preserve_index=False)
        ds.write_dataset(table, folder / name, format="parquet")
