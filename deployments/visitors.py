"""The visitors of the sample feed: they ask the gateway for pages and click by their true tastes, some time later."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from io import BytesIO

import pandas as pd

from deployments.live_gateway import LiveGateway
from ranking.assignment import REST
from ranking.traffic import REQUEST, TIME, Traffic, as_logged
from ranking.world import TRUTH
from tasks.adapters.storage import write_bytes

LONGEST_TICK = timedelta(days=1)


@dataclass
class Visitors:
    """The crowd, with outcomes that are not known yet, and what each arm has shown in the present stage."""

    traffic: Traffic
    gateway: LiveGateway
    place: str
    delay: timedelta
    waiting: list[pd.DataFrame] = field(default_factory=list)
    seen: list[pd.DataFrame] = field(default_factory=list)
    asked: set[int] = field(default_factory=set)

    def recall(self, now: datetime) -> None:
        """Take up what an earlier simulation left: outcomes that had not arrived, and the tick that was broken off.

        Args:
            now: where the earlier one ended its last whole tick.
        """
        since, until = now - self.delay, now + LONGEST_TICK
        self.asked, shown = self.gateway.recalled(self.traffic.between(since, until), since, until)
        if not shown.empty:
            outcomes = self.traffic.outcomes(shown)
            self.waiting.append(outcomes)
            self.seen.append(outcomes.loc[outcomes[TIME] >= now, ["arm", "click", TRUTH]])

    def visit(self, start: datetime, end: datetime) -> int:
        """Let everybody come who comes in ``[start, end)``; gives the number of pages that were asked for."""
        candidates = self.traffic.between(start, end)
        before = candidates[REQUEST].isin(self.asked)
        pages, candidates = int(candidates[REQUEST][before].nunique()), candidates[~before]
        if candidates.empty:
            return pages
        shown = self.gateway.ask(candidates)
        self.note(shown)
        return pages + int(shown[REQUEST].nunique())

    def note(self, shown: pd.DataFrame) -> None:
        """Remember what was shown, until its outcomes are known."""
        outcomes = self.traffic.outcomes(shown)
        self.waiting.append(outcomes)
        self.seen.append(outcomes[["arm", "click", TRUTH]])

    def deliver(self, now: datetime) -> None:
        """Append the outcomes whose label is final."""
        if not self.waiting:
            return
        rows = pd.concat(self.waiting, ignore_index=True)
        final = rows[TIME] < now - self.delay
        self.waiting = [rows[~final]]
        if final.any():
            buffer = BytesIO()
            as_logged(rows[final]).to_parquet(buffer, index=False)
            write_bytes(f"{self.place}/part-{now:%Y%m%dT%H%M%S}.parquet", buffer.getvalue())

    def rates(self) -> dict[str, tuple[float, float]]:
        """Click rate by arm as it happened, and as the truth expects it; of all together when there are no arms."""
        if not self.seen:
            return {}
        rows = pd.concat(self.seen, ignore_index=True)
        beside = rows[rows["arm"] != REST]
        rows = rows.assign(arm="all") if beside.empty else beside
        means = rows.groupby("arm")[["click", TRUTH]].mean()
        return {str(arm): (float(row["click"]), float(row[TRUTH])) for arm, row in means.iterrows()}
