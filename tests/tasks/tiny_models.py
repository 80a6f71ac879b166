"""Small real bundles, evidence about them, and an embedded registry: what the registry tests are made of."""

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from ranking.bundle import Bundle, Facts
from ranking.decision import Confidence, Decision
from ranking.encoder_fitting import fit_encoder
from ranking.features import Feature, FeatureSpec, HistoryKnobs, Kind, Owner, Schema
from ranking.fits import Epoch, Training
from ranking.measurements import Estimate, MetricComparison
from ranking.models import DeepMLPKnobs, build_ranker
from ranking.results import Approval, Comparison, Evidence, ModelRef, Snapshot, Verdict
from ranking.times import Window
from tasks.adapters.ledger import Ledger, open_ledger
from tasks.adapters.mlflow_store import open_store
from tasks.adapters.registry import Registry, open_registry

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEARNT = Window(start=NOW - timedelta(days=30), end=NOW - timedelta(days=2))
NAME = "feed_ranker"
LOG = Schema(
    user="user_id",
    item="item_id",
    time="timestamp",
    label="click",
    request=None,
    features=(
        Feature(name="age", owner=Owner.USER, kind=Kind.NUMERIC),
        Feature(name="device", owner=Owner.CONTEXT, kind=Kind.CATEGORICAL),
    ),
)


def sample_rows(rows: int = 40, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user_id": random.integers(1, 9, rows),
            "item_id": [f"item-{number}" for number in random.integers(1, 7, rows)],
            "age": random.integers(18, 70, rows).astype("float64"),
            "device": random.choice(["phone", "desktop", None], rows),
            "timestamp": pd.Timestamp(NOW),
            "click": random.integers(0, 2, rows),
        }
    )


def tiny_bundle(seed: int = 1) -> Bundle:
    spec = FeatureSpec(log=LOG, history=HistoryKnobs(enabled=False))
    encoder = fit_encoder(pa.Table.from_pandas(sample_rows()), spec)
    knobs = DeepMLPKnobs(dimension=4, hidden=(8,))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_ranker(knobs, encoder)
        torch.nn.init.normal_(net.embedding.weight, std=1.0)
    return Bundle(net=net.eval(), encoder=encoder, facts=Facts(architecture=knobs, spec=spec, learnt=LEARNT, seed=seed))


def training_of(bundle: Bundle) -> Training:
    return Training(
        architecture="deep_mlp",
        digest=bundle.digest,
        seed=bundle.facts.seed,
        device="cpu",
        epochs=tuple(
            Epoch(number=n, train_log_loss=0.6 - n / 50, validation_log_loss=0.61, validation_auc=0.7, seconds=1.0)
            for n in range(2)
        ),
        best_epoch=1,
        rows=40,
        rows_per_second=1000.0,
        parameters=100,
        learnt=LEARNT,
    )


def snapshot(fingerprint: str = "f" * 64) -> Snapshot:
    return Snapshot(
        uri="/data/snapshot",
        fingerprint=fingerprint,
        rows=40,
        users=8,
        items=6,
        positives=20,
        window=LEARNT,
        cutoff=LEARNT.end,
        log=LOG,
    )


def evidence_about(challenger: ModelRef, champion: ModelRef | None, decision: Decision = Decision.PROMOTE) -> Evidence:
    def metric(name: str, *, higher: bool | None) -> MetricComparison:
        return MetricComparison(
            name=name,
            higher_is_better=higher,
            champion=Estimate(value=0.70) if champion else None,
            challenger=Estimate(value=0.72),
            difference=Estimate(value=0.02, se=0.004, low=0.012, high=0.028) if champion else None,
        )

    comparison = Comparison(
        champion=champion,
        challenger=challenger,
        snapshot_fingerprint="f" * 64,
        holdout=Window(start=LEARNT.end, end=NOW),
        holdout_digest="h" * 64,
        rows=1000,
        positives=200,
        users=50,
        items=40,
        auc=metric("auc", higher=True),
        log_loss=metric("log_loss", higher=False),
        gauc=metric("gauc", higher=True),
        calibration=metric("calibration", higher=None),
        constant_log_loss=0.69,
    )
    verdict = Verdict(decision=decision, confidence=Confidence.HIGH, reason="AUC 0.7200 against 0.7000.")
    return Evidence(comparison=comparison, verdict=verdict, policy_digest="p" * 64)


def approval_of(evidence: Evidence, *, approved: bool = True) -> Approval:
    return Approval(
        approved=approved,
        approver="ada",
        reason="the numbers are clear",
        channel="terminal",
        evidence_digest=evidence.digest,
        at=NOW,
    )


@cache
def _fresh_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        open_store(None, Path(folder))
        return (Path(folder) / "mlflow.db").read_bytes()


def with_database(workspace: Path) -> Path:
    """The workspace with a fresh MLflow database in it; making one takes seconds, so it is made once and copied."""
    (workspace / "mlflow.db").write_bytes(_fresh_database())
    return workspace


@dataclass(frozen=True)
class Shop:
    """An embedded registry with its ledger, and tiny models to put into it."""

    registry: Registry
    ledger: Ledger
    workspace: Path

    def register(self, seed: int, request: str = "") -> ModelRef:
        bundle = tiny_bundle(seed)
        folder = self.workspace / "bundles" / f"{seed}"
        if not folder.exists():
            bundle.save(folder)
        return self.registry.register(
            folder,
            training_of(bundle),
            snapshot=snapshot(),
            sample=sample_rows(),
            files={},
            tags={"git_commit": "abc123"},
            request=request or f"request-{seed}",
        )


def open_shop(workspace: Path, tracking_uri: str | None = None, ledger_uri: str | None = None) -> Shop:
    return Shop(
        registry=open_registry(tracking_uri, NAME, workspace),
        ledger=open_ledger(tracking_uri, NAME, workspace, ledger_uri),
        workspace=workspace,
    )
