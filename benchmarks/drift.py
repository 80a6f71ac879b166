"""A day of 50 columns against a frozen reference, beside scipy doing the same from arrays."""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.table import Row
from ranking.bins import ColumnKind
from ranking.counts import count
from ranking.data_quality import check_quality
from ranking.data_quality.knobs import QualityKnobs
from ranking.drift import Drift, DriftKnobs, measure_drift
from ranking.features import Schema
from ranking.reference import Reference, ReferenceKnobs, build_reference
from ranking.times import Window

OTHER = os.environ.get("EVIDENTLY_PYTHON")
"""The Python of an environment with Evidently; without it that row is left out."""

START = datetime(2026, 1, 5, tzinfo=UTC)
DAY = timedelta(days=1)
LOG = Schema(user="user", item="item", time="time", label="click", request=None, features=())
NUMBERS, CATEGORIES = [f"number{place}" for place in range(40)], [f"category{place}" for place in range(10)]
KINDS = dict.fromkeys(NUMBERS, ColumnKind.NUMERIC) | dict.fromkeys(CATEGORIES, ColumnKind.CATEGORICAL)


def run(scale: float) -> list[Row]:
    """Reference and window of one million rows each, times ``scale``; 40 numbers and 10 categories."""
    rows = round(1_000_000 * scale)
    old, new = log(rows, days=14, seed=0), log(rows, days=1, seed=1, shift=0.2)
    window = Window(start=START, end=START + 14 * DAY)
    reference = build_reference(old, KINDS, LOG, champion="1", window=window, knobs=ReferenceKnobs())
    assert_equal(ours(reference, new), frozen_bins(reference, new))
    name = f"50 columns, {rows:,} rows"
    mine = _cpu_seconds(lambda: ours(reference, new))
    frozen = _cpu_seconds(lambda: frozen_bins(reference, new))
    raw = _cpu_seconds(lambda: raw_reference(old, new))
    note = "ours also counts users, duplicates, lateness, copies, unknown values, and asks every quality rule"
    others = [] if OTHER is None else [(f"{name}, against Evidently (PSI alone)", published(old, new))]
    return [
        *(_row(label, mine, seconds, note) for label, seconds in others),
        _row(f"{name}, against histograms in frozen bins and scipy", mine, frozen, note),
        _row(f"{name}, against scipy with the reference's rows at hand (PSI, KS)", mine, raw, note),
    ]


def published(old: pa.Table, new: pa.Table) -> float:
    """CPU seconds of Evidently in its own environment, which must find the same five columns that moved.

    Its bins are others than ours, so the values differ.
    """
    with tempfile.TemporaryDirectory(prefix="feedloop-drift-") as folder:
        files = [f"{folder}/{name}.parquet" for name in ("reference", "current")]
        for table, file in zip((old, new), files, strict=True):
            pq.write_table(table, file)
        script = Path(__file__).with_name("published_drift.py")
        done = subprocess.run([str(OTHER), str(script), *files], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    psi = {name: told["psi"][name] for name in NUMBERS}
    assert sorted(psi, key=lambda name: -psi[name])[:5] == sorted(NUMBERS[:5], key=lambda name: -psi[name])
    return float(told["seconds"])


def log(rows: int, days: int, seed: int, shift: float = 0.0) -> pa.Table:
    """Rows of so many days in order of time; five numbers are shifted."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, days * 86_400_000_000, rows)) + int(START.timestamp() * 1_000_000)
    columns = {
        "user": rng.integers(0, 50_000, rows),
        "item": rng.integers(0, 5_000, rows),
        "time": times.astype("datetime64[us]"),
    }
    columns |= {name: rng.normal(shift * (place < 5), 1, rows) for place, name in enumerate(NUMBERS)}
    values = [f"value{value}" for value in range(30)]
    for name in CATEGORIES:
        codes = rng.integers(0, len(values), rows, dtype=np.int32)
        columns[name] = pa.DictionaryArray.from_arrays(codes, values).dictionary_decode()
    return pa.table(columns)


def ours(reference: Reference, rows: pa.Table) -> Drift:
    """Counts, drift and data quality of the day."""
    current = count(rows, reference.layout, Window(start=START, end=START + DAY))
    check_quality(reference, current, QualityKnobs())
    return measure_drift(reference, current, DriftKnobs())


def frozen_bins(reference: Reference, rows: pa.Table) -> dict[str, float]:
    """PSI, Jensen-Shannon and chi-square per column: numpy's and pandas' counts in the same bins, scipy's formulas."""
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import chisquare, entropy

    found = {}
    for column in reference.layout.columns:
        p = np.array(reference.counts.columns[column.name].bins[:-1], dtype=np.float64)
        if column.is_number:
            values = rows[column.name].to_numpy()
            q = np.histogram(values[np.isfinite(values)], [-np.inf, *column.edges, np.inf])[0].astype(np.float64)
        else:
            counted = rows[column.name].to_pandas().value_counts()
            known = counted.reindex(list(column.values[: column.singled]), fill_value=0)
            q = np.append(known.to_numpy(), counted.sum() - known.sum()).astype(np.float64)
        p, q = (np.maximum(side, 0.5) / np.maximum(side, 0.5).sum() for side in (p, q))
        found[column.name] = float(entropy(p, q) + entropy(q, p))
        jensenshannon(p, q)
        chisquare(q * rows.num_rows, p * rows.num_rows)
    return found


def raw_reference(old: pa.Table, new: pa.Table) -> dict[str, float]:
    """The usual script: quantiles and histograms of both sides every time, and a KS test of the values."""
    from scipy.stats import entropy, ks_2samp

    found = {}
    for name in NUMBERS:
        before, after = old[name].to_numpy(), new[name].to_numpy()
        edges = [-np.inf, *np.quantile(before, np.linspace(0, 1, 11)[1:-1]), np.inf]
        p, q = (np.histogram(values, edges)[0] / len(values) for values in (before, after))
        found[name] = float(entropy(p, q) + entropy(q, p))
        ks_2samp(before, after, method="asymp")
    for name in CATEGORIES:
        shares = pd.concat([side[name].to_pandas().value_counts(normalize=True) for side in (old, new)], axis=1)
        p, q = shares.fillna(0).to_numpy().T
        found[name] = float(entropy(p, q) + entropy(q, p))
    return found


def assert_equal(drift: Drift, theirs: dict[str, float]) -> None:
    """The same PSI, column by column: a faster wrong number is no gain."""
    for column in drift.columns:
        assert column.psi is not None
        assert abs(column.psi - theirs[column.name]) < 1e-9, (column.name, column.psi, theirs[column.name])


def _cpu_seconds(work: Callable[[], object]) -> float:
    """Processor seconds of one call: the neighbours of a shared machine do not count."""
    started = process_time()
    work()
    return process_time() - started


def _row(name: str, ours_seconds: float, theirs_seconds: float, note: str) -> Row:
    ratio = theirs_seconds / ours_seconds
    return Row(name=name, ours=ours_seconds, theirs=theirs_seconds, ratio=ratio, unit="CPU s", note=note)
