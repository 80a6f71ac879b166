"""What a promotion or a rollback will need, looked at before it is needed: an ordered list of checks.

Each check gives a ``Checked``: fine or not, with a sentence that says what was found.  What a check looks for
does not raise; an outage does not stop the checks after it.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranking.errors import FeedloopError
from ranking.results import ModelRef
from ranking.values import Value
from settings.model import Settings
from tasks.adapters.ledger import Ledger
from tasks.adapters.registry import Registry
from tasks.adapters.serving_check import verify_bundle
from tasks.champion import reconcile, serving
from tasks.data import describe_log
from tasks.rollback import as_released
from tasks.stores import open_both
from tasks.succession import back_to

LEAST_FREE_GIB = 2.0
"""With less a bundle may not fit."""


class Checked(Value):
    """One check's answer."""

    name: str
    fine: bool
    sentence: str


@dataclass(frozen=True)
class Patient:
    """What is looked at: the settings, and the two stores opened from them."""

    settings: Settings
    registry: Registry
    ledger: Ledger


def check(settings: Settings) -> tuple[Checked, ...]:
    """Look at everything; where registry or ledger cannot be opened, that is the last answer."""
    alone = tuple(_told(name, look, settings) for name, look in ALONE)
    try:
        patient = Patient(settings, *open_both(**settings.store))
    except FeedloopError as error:
        return *alone, Checked(name="registry", fine=False, sentence=str(error))
    return *alone, *(_told(name, look, patient) for name, look in WITH_STORES)


def _told(name: str, look: Callable[[Any], Checked | str], what: Settings | Patient) -> Checked:
    try:
        found = look(what)
    except FeedloopError as error:
        return Checked(name=name, fine=False, sentence=str(error))
    return found if isinstance(found, Checked) else Checked(name=name, fine=True, sentence=found)


def room(settings: Settings) -> Checked | str:
    """A bundle that does not fit is an error in the middle of a run."""
    if "://" in settings.workspace:
        return f"{settings.workspace} is not on this machine."
    folder = next(path for path in (Path(settings.workspace), *Path(settings.workspace).parents) if path.exists())
    free = shutil.disk_usage(folder).free / 1024**3
    if free < LEAST_FREE_GIB:
        sentence = f"{settings.workspace} has {free:.1f} GiB free; {LEAST_FREE_GIB:g} are wanted. Free some."
        return Checked(name="workspace", fine=False, sentence=sentence)
    return f"{settings.workspace} has {free:,.0f} GiB free."


def log(settings: Settings) -> str:
    """The log answers, and says how new it is."""
    columns, newest = describe_log(settings.data.uri)
    return f"{settings.data.uri} has {len(columns)} columns; its newest row is of {newest or 'an unknown time'}."


def ledger(patient: Patient) -> Checked | str:
    """Nothing is promoted or rolled back on a broken chain."""
    breaks = patient.ledger.verify()
    if breaks:
        return Checked(name="ledger", fine=False, sentence=f"{'; '.join(breaks)}. Restore it from a backup.")
    return f"{len(patient.ledger.entries())} entries, intact."


def one_ledger(patient: Patient) -> Checked | str:
    """Two ledgers of one model are two truths: a worker without the setting would write to the other."""
    knobs = patient.settings.registry
    if knobs.ledger_uri is None:
        return "It lies in MLflow, as nothing else is configured."
    _, other = open_both(knobs.model_copy(update={"ledger_uri": None}), patient.settings.workspace)
    forgotten = other.entries()
    if forgotten:
        sentence = (
            f"registry.ledger_uri is set, and MLflow holds another ledger of this model with {len(forgotten)} entries. "
            "Give every worker the same setting, and move the entries before the next promotion."
        )
        return Checked(name="one ledger", fine=False, sentence=sentence)
    return "It lies in the configured database, and MLflow holds no other."


def aliases(patient: Patient) -> str:
    """Mends the aliases, and says whether they were wrong."""
    before = patient.registry.aliases()
    reconcile(patient.registry, patient.ledger)
    after = patient.registry.aliases()
    shown = ", ".join(f"{alias} is version {version}" for alias, version in sorted(after.items())) or "none set"
    return f"As the ledger says: {shown}.{'' if before == after else ' They were not; they have been mended.'}"


def champion(patient: Patient) -> str:
    """Its bytes are those that were promoted, and it answers as in training."""
    serves = serving(patient.registry, patient.ledger)
    return "There is none yet." if serves is None else _whole(patient, serves)


def way_back(patient: Patient) -> str:
    """The version that a rollback would go to is whole."""
    serves = serving(patient.registry, patient.ledger)
    previous = back_to(patient.ledger.entries(), serves.version) if serves else None
    return "There is none yet." if previous is None else _whole(patient, patient.registry.model(previous))


def _whole(patient: Patient, ref: ModelRef) -> str:
    verify_bundle(patient.registry, as_released(ref, patient.ledger.entries()))
    return f"Version {ref.version} is whole and answers as in training."


def where_runs_are(settings: Settings, pools: Mapping[str, str]) -> Checked:
    """Whether runs in these work pools, name to type, find the registry and each other's files.

    A run of a process pool has its worker's disk.  One of any other type begins on an empty disk, and goes on after an
    approval on another.
    """
    away = ", ".join(f"{name} ({kind})" for name, kind in pools.items() if kind != "process")
    if not pools:
        return Checked(name="where runs are", fine=True, sentence="Nothing is deployed yet: `feedloop deploy` does it.")
    if not away:
        return Checked(name="where runs are", fine=True, sentence=f"Processes of the workers of {', '.join(pools)}.")
    uri = settings.registry.tracking_uri
    if uri is None or uri.startswith("sqlite"):
        sentence = (
            f"The runs of {away} begin on an empty disk, and the registry is an SQLite file: each would see another. "
            "Set registry.tracking_uri to an MLflow server."
        )
        return Checked(name="where runs are", fine=False, sentence=sentence)
    shared = "" if "://" in settings.workspace else f" {settings.workspace} has to be a volume that all of them mount."
    sentence = f"In {away}, on disks of their own.{shared} Results of tasks have to be shared too (docs/production.md)."
    return Checked(name="where runs are", fine=True, sentence=sentence)


ALONE: tuple[tuple[str, Callable[[Settings], Checked | str]], ...] = (("workspace", room), ("log", log))
WITH_STORES: tuple[tuple[str, Callable[[Patient], Checked | str]], ...] = (
    ("ledger", ledger),
    ("one ledger", one_ledger),
    ("aliases", aliases),
    ("champion", champion),
    ("way back", way_back),
)
