"""The gateway beside ``mlflow models serve`` of the same model: answers a second at 100 candidates, one worker each.

Both get the same body at ``/invocations``; ``/rank`` is the gateway's own question for as many candidates, and is
logged besides.  Rounds alternate, and only one server is asked at a time.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from benchmarks.http_load import Load, drive, together
from benchmarks.table import Row

CANDIDATES, BODIES, ROUNDS = 100, 50, 3
CLIENTS = (1, 8, 32)
DEFAULTS = {"refresh_seconds": 5.0, "log_seconds": 30.0}
"""As a gateway runs unless told otherwise; tests make it look at the ledger more often."""


def run(scale: float) -> list[Row]:
    """Ask both; ``scale`` shortens the rounds."""
    with tempfile.TemporaryDirectory(prefix="feedloop-gateway-") as name, both(Path(name)) as (ours, theirs):
        rows = []
        for clients in CLIENTS:
            rows += compared(ours, theirs, clients, max(4 * scale, 0.5))
        return rows


def compared(ours: int, theirs: int, clients: int, seconds: float) -> list[Row]:
    """Rows for so many clients, of alternating rounds."""
    asked = {"invocations": invocations(), "rank": questions()}
    loads: dict[str, list[Load]] = {"mlflow": [], "invocations": [], "rank": []}
    for _ in range(ROUNDS):
        loads["mlflow"].append(drive(theirs, "/invocations", asked["invocations"], clients=clients, seconds=seconds))
        for path in ("invocations", "rank"):
            loads[path].append(drive(ours, f"/{path}", asked[path], clients=clients, seconds=seconds))
    all_rounds = {name: together(some) for name, some in loads.items()}
    assert not any(load.failed for load in all_rounds.values())
    return [row for path in ("invocations", "rank") for row in _rows(path, clients, all_rounds)]


def _rows(path: str, clients: int, loads: dict[str, Load]) -> list[Row]:
    ours, theirs = loads[path], loads["mlflow"]
    name = f"/{path}, {clients} clients"
    rows = [Row(name, ours.per_second, theirs.per_second, ours.per_second / theirs.per_second, "requests/s")]
    for percentile in (50, 99):
        mine, other = ours.milliseconds(percentile), theirs.milliseconds(percentile)
        rows.append(Row(f"{name}, p{percentile}", mine, other, other / mine, "ms"))
    return rows


def feed() -> pd.DataFrame:
    """A log with ids of a middling shop: 5,000 users, 2,000 items, three categories, eight numbers."""
    random = np.random.default_rng(0)
    count = 20_000
    columns: dict[str, object] = {
        "user_id": random.integers(0, 5_000, count),
        "item_id": [f"item-{number}" for number in random.integers(0, 2_000, count)],
        "device": random.choice(["phone", "desktop"], count),
        "category": random.choice(["news", "sport", "music", "film"], count),
        "country": random.choice(["de", "fr", "it"], count),
    }
    columns |= {f"number_{place}": random.normal(size=count) for place in range(8)}
    return pd.DataFrame(columns)


def model(folder: Path) -> None:
    """A bundle of the default architecture for that log, untrained: speed does not ask for quality."""
    from ranking.bundle import Bundle, Facts
    from ranking.encoder_fitting import fit_encoder
    from ranking.features import Feature, FeatureSpec, HistoryKnobs, Kind, Owner, Schema
    from ranking.models import DeepMLPKnobs, build_ranker
    from tests.tasks.tiny_models import LEARNT

    owners = {"device": Owner.CONTEXT, "category": Owner.ITEM, "country": Owner.USER}
    categories = tuple(Feature(name=name, owner=owner, kind=Kind.CATEGORICAL) for name, owner in owners.items())
    numbers = tuple(
        Feature(name=f"number_{place}", owner=Owner.USER if place < 4 else Owner.ITEM, kind=Kind.NUMERIC)
        for place in range(8)
    )
    log = Schema(
        user="user_id", item="item_id", time="timestamp", label="click", request=None, features=(*categories, *numbers)
    )
    spec = FeatureSpec(log=log, history=HistoryKnobs(enabled=False))
    encoder = fit_encoder(pa.Table.from_pandas(feed()), spec)
    torch.manual_seed(1)
    net = build_ranker(DeepMLPKnobs(), encoder).eval()
    Bundle(net, encoder, Facts(architecture=DeepMLPKnobs(), spec=spec, learnt=LEARNT, seed=1)).save(folder)


def invocations() -> list[bytes]:
    """Bodies for MLflow's protocol."""
    frame = feed()
    bodies = []
    for place in range(BODIES):
        some = frame.iloc[place * CANDIDATES : (place + 1) * CANDIDATES]
        split = {"columns": list(some.columns), "data": some.to_numpy().tolist()}
        bodies.append(json.dumps({"dataframe_split": split}).encode())
    return bodies


def questions() -> list[bytes]:
    """Bodies for ``/rank``: the same columns, each where it belongs."""
    frame = feed().drop_duplicates("item_id")
    of_item = ["category", *(f"number_{place}" for place in range(4, 8))]
    bodies = []
    for place in range(BODIES):
        some = frame.sample(CANDIDATES, random_state=place)
        first = some.iloc[0]
        items = [
            {"item": item, "features": features}
            for item, features in zip(some["item_id"], some[of_item].to_dict("records"), strict=True)
        ]
        user = {
            "country": first["country"],
            **{f"number_{number}": float(first[f"number_{number}"]) for number in range(4)},
        }
        body = {"user": int(first["user_id"]), "items": items, "context": {"device": "phone"}, "user_features": user}
        bodies.append(json.dumps(body).encode())
    return bodies


@contextmanager
def both(folder: Path) -> Iterator[tuple[int, int]]:
    """Ports of the gateway and of MLflow's server, which serve the same registered model."""
    from ranking.bundle import Bundle
    from tests.deployments.running_gateway import Place, running
    from tests.tasks.tiny_models import snapshot, training_of

    place = Place(folder / "project", DEFAULTS)
    model(folder / "bundle")
    bundle = Bundle.load(folder / "bundle")
    ref = place.shop.registry.register(
        folder / "bundle",
        training_of(bundle),
        snapshot=snapshot(),
        sample=feed().head(40),
        files={},
        tags={},
        request="benchmark",
    )
    place.shop.registry.release(ref)
    place.shop.registry.point("champion", ref.version)
    place.promote(ref)
    with mlflow_serving(folder, place.shop.registry.tracking_uri) as theirs, running(place) as gateway:
        yield gateway.port, theirs


@contextmanager
def mlflow_serving(folder: Path, tracking_uri: str) -> Iterator[int]:
    """The port of ``mlflow models serve`` with one worker."""
    from tests.tasks.mlflow_server import free_port, wait_for

    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/feed_ranker@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # The venv's own programs: `serve` starts uvicorn by name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking_uri, "PATH": path}
    with (folder / "mlflow.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(f"http://127.0.0.1:{port}/ping", process, folder / "mlflow.log")
            yield port
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)
