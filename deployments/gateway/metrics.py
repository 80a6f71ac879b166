"""What Prometheus may ask of the gateway.

Every process writes to files of its own in one folder (``PROMETHEUS_MULTIPROC_DIR``), and whichever process
is asked answers for all of them.  The folder must be set before this module is imported, as ``feedloop serve``
does; where it is not, a process answers for itself.
"""

import os
from contextlib import suppress
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

REQUESTS = Counter("feedloop_requests_total", "Requests by how they ended.", ("endpoint", "arm", "version", "outcome"))
LATENCY = Histogram("feedloop_latency_seconds", "Time to an answer.", ("endpoint",), buckets=BUCKETS)
IN_FLIGHT = Gauge("feedloop_requests_in_flight", "Requests in the making.", multiprocess_mode="livesum")
SHADOW = Counter("feedloop_shadow_requests_total", "Requests chosen for the shadow.", ("version", "outcome"))
SHADOW_LATENCY = Histogram("feedloop_shadow_latency_seconds", "Time of the shadow to score.", buckets=BUCKETS)
SHADOW_STARTS = Counter("feedloop_shadow_starts_total", "Times that a process of the shadow was started.")
SWAPS = Counter("feedloop_swaps_total", "Times that routing, models or features were swapped.")
POLLS = Counter("feedloop_ledger_polls_total", "Looks at the ledger, by how they ended.", ("outcome",))
LOST = Gauge("feedloop_log_lost_records", "Records that could not be kept.", multiprocess_mode="livesum")
WAITING = Gauge("feedloop_log_waiting_rows", "Candidates not yet in a file.", multiprocess_mode="livesum")
UNWRITTEN = Gauge("feedloop_log_unwritten_journals", "Journals that could not be written.", multiprocess_mode="livesum")
ENTRY = Gauge("feedloop_routing_entry", "Ledger entry that is served.", multiprocess_mode="livemin")
CHECKED = Gauge(
    "feedloop_routing_checked_timestamp_seconds", "When the ledger last answered.", multiprocess_mode="livemin"
)
FEATURES = Gauge(
    "feedloop_features_as_of_timestamp_seconds",
    "Moment of the feature table.",
    ("version",),
    multiprocess_mode="livemin",
)
BROKEN = Gauge("feedloop_broken_models", "Versions of the table that cannot serve.", multiprocess_mode="livemax")
BREAKER = Gauge("feedloop_breaker_open", "1 while it is open.", ("breaker",), multiprocess_mode="livemax")
READY = Gauge("feedloop_ready_workers", "Processes that have a champion.", multiprocess_mode="livesum")


def exposition() -> bytes:
    """All processes' metrics in Prometheus' text format."""
    if FOLDER_VARIABLE not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the library's own omission
    return generate_latest(registry)


def forget_dead(folder: Path) -> None:
    """Drop what processes that ended said of the moment; what they counted stays counted.

    Args:
        folder: of all processes' files.
    """
    for path in folder.glob("gauge_live*.db"):
        try:
            os.kill(int(path.stem.rsplit("_", 1)[1]), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except (ValueError, PermissionError):
            continue


def forget_this(folder: Path) -> None:
    """Drop what this process says of the moment: it ends."""
    for path in folder.glob(f"gauge_live*_{os.getpid()}.db"):
        with suppress(OSError):
            path.unlink()
