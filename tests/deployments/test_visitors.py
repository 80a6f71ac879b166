"""What a simulated app sends, and when it learns what became of a page."""

from datetime import timedelta
from pathlib import Path

import pyarrow.dataset as ds

from deployments.gateway.schemas import RankRequest
from deployments.live_gateway import LiveGateway, page_request
from deployments.traffic import Visitors
from ranking.traffic import Traffic
from ranking.world import WorldKnobs

KNOBS = WorldKnobs(users=100, items=60, candidates_per_request=6, slate_size=3)
HOUR = timedelta(hours=1)


def test_a_page_is_asked_for_in_the_gateways_own_schema_with_its_time() -> None:
    rows = Traffic(KNOBS, requests_per_day=50).day(0)
    _, page = next(iter(rows.groupby("request_id", sort=False)))
    asked = RankRequest.model_validate(page_request(page, 3))
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
        top = rows.groupby("request_id", sort=False).head(3)
        visitors.note(top.assign(position=top.groupby("request_id").cumcount() + 1, arm="control", version="1"))
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
