"""Read ``feedloop.toml`` and the environment into one frozen ``Settings``, or say which knob is wrong."""

import os
import tomllib
import types
import typing
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError as PydanticSettingsError

from ranking.errors import SettingsError
from ranking.strategies import AbTest
from ranking.values import Knobs
from ranking.world import (
    SAMPLE_ATTRIBUTES,
    SAMPLE_COLUMNS,
    SAMPLE_GRAIN,
    SAMPLE_HISTORY_DAYS,
    SAMPLE_HOLDOUT_DAYS,
    SAMPLE_WARMUP_DAYS,
    SAMPLE_WINDOW_DAYS,
)
from settings.addresses import shown
from settings.effects import SAMPLE
from settings.model import PREFIX, Settings
from settings.rollout import SAMPLE_AB_TEST, SAMPLE_CANARY

DEFAULT_FILE = "feedloop.toml"
Group = TypeVar("Group", bound=Knobs)

OUTSIDE = {"FEEDLOOP_CONFIG", "FEEDLOOP_TEST_MOVIELENS"}
"""Variables with our prefix that are not knobs: the file to read, and data for a test."""


def load(file: str | Path | None = None, *, data_uri: str | None = None, **overrides: Any) -> Settings:
    """Read the settings.

    Args:
        file: a TOML file.  Without one: ``$FEEDLOOP_CONFIG``, then ``feedloop.toml`` here, if there is one.
        data_uri: another interaction log than the configured one.
        overrides: knobs that win over file and environment, such as ``seed=1``.

    Returns:
        The settings, with relative paths of ``workspace`` and ``data.uri`` resolved against the file's folder.

    Raises:
        SettingsError: the file is missing or not TOML, or a knob is unknown (the nearest name is suggested),
            out of bounds or of the wrong type.
    """
    path = settings_file(file)
    if data_uri is not None:
        overrides["data"] = {"uri": data_uri}
    for variable in os.environ:
        _check_variable(variable)
    source = type(
        "Settings", (Settings,), {"toml_file": str(path) if path else None, "__module__": Settings.__module__}
    )
    try:
        settings: Settings = source(**overrides)
    except ValidationError as error:
        raise SettingsError(_explain(error, path)) from error
    except PydanticSettingsError as error:
        raise SettingsError(f"An environment variable cannot be read: {error}. See docs/settings.md.") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}. Mend the line it names.") from error
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from error
    return _resolved(settings, path.resolve().parent if path else Path.cwd())


def settings_file(file: str | Path | None) -> Path | None:
    """The file that :func:`load` reads; None when there is none.

    Raises:
        SettingsError: a named file does not exist.
    """
    named = file or os.environ.get("FEEDLOOP_CONFIG")
    if named is None:
        return Path(DEFAULT_FILE) if Path(DEFAULT_FILE).is_file() else None
    if not Path(named).is_file():
        raise SettingsError(
            f"There is no settings file {str(named)!r}. `feedloop init PATH` drafts one from your data."
        )
    return Path(named)


def _resolved(settings: Settings, folder: Path) -> Settings:
    """Anchor relative paths: which champion is meant must not depend on where the shell stands."""
    workspace = _anchor(settings.workspace, folder)
    changes: dict[str, Any] = {"workspace": workspace}
    if settings.data.uri == SAMPLE:
        changes |= _sample(settings, workspace)
    else:
        if settings.rollout.outcomes is not None:
            outcomes = _anchor(settings.rollout.outcomes, folder)
            changes["rollout"] = settings.rollout.model_copy(update={"outcomes": outcomes})
        changes["data"] = settings.data.model_copy(update={"uri": _anchor(settings.data.uri, folder)})
    places = {"log": settings.serving.log, "folder": settings.serving.folder}
    anchored = {name: _anchor(place, folder) for name, place in places.items() if place is not None}
    changes["serving"] = settings.serving.model_copy(update=anchored)
    plain = Settings.model_construct(**{name: getattr(settings, name) for name in Settings.model_fields})
    return plain.model_copy(update=changes)


def _sample(settings: Settings, workspace: str) -> dict[str, Any]:
    """The sample feed knows its columns, its label delay and its pace; what the user has set stays."""
    split = _filled(settings.split, warmup_days=SAMPLE_WARMUP_DAYS)
    return {
        "data": _filled(
            settings.data,
            columns=SAMPLE_COLUMNS,
            label_delay_hours=settings.world.label_delay_hours,
            window_days=SAMPLE_WINDOW_DAYS,
        ).model_copy(update={"uri": f"{workspace}/sample/interactions"}),
        "history": _filled(
            settings.history,
            item_attributes=SAMPLE_ATTRIBUTES,
            windows_days=SAMPLE_HISTORY_DAYS,
            since_start=False,
            grain=SAMPLE_GRAIN,
        ),
        "rollout": _filled(
            settings.rollout,
            canary=SAMPLE_CANARY,
            undecided="ab_test",
            outcomes=f"{workspace}/online/outcomes",
        ).model_copy(update={"ab_test": _sample_test(settings.rollout.ab_test)}),
        "split": split if split.holdout_share else _filled(split, holdout_days=SAMPLE_HOLDOUT_DAYS),
    }


def _sample_test(test: AbTest) -> AbTest:
    """An A/B test for a small feed; what the user has set of it stays, such as a stage of interleaving."""
    sample = SAMPLE_AB_TEST.experiment
    experiment = _filled(test.experiment, weeks=sample.weeks, min_users_per_arm=sample.min_users_per_arm)
    return _filled(test, first=SAMPLE_AB_TEST.first).model_copy(update={"experiment": experiment})


def _filled(group: Group, **values: Any) -> Group:
    """A group with these values where nobody set one."""
    unset = {name: value for name, value in values.items() if name not in group.model_fields_set}
    return group.model_copy(update=unset)


def _anchor(uri: str, folder: Path) -> str:
    if "://" in uri:
        return uri
    return str((folder / Path(uri).expanduser()).absolute())


def _check_variable(variable: str) -> None:
    if not variable.upper().startswith(PREFIX) or variable.upper() in OUTSIDE:
        return
    top = variable[len(PREFIX) :].split("__", maxsplit=1)[0].lower()
    if top not in Settings.model_fields:
        near = get_close_matches(top, Settings.model_fields, n=1)
        hint = f" Did you mean {PREFIX}{near[0].upper()}?" if near else ""
        known = ", ".join(Settings.model_fields)
        raise SettingsError(f"The environment variable {variable} names no setting.{hint} Known groups: {known}.")


def _explain(error: ValidationError, path: Path | None) -> str:
    where = f"{path} or a {PREFIX}… variable" if path else f"A {PREFIX}… variable"
    lines = [_sentence(detail) for detail in error.errors()]
    return f"{where} sets what cannot be: {'; '.join(lines)}. Every knob is described in docs/settings.md."


def _sentence(detail: ErrorDetails) -> str:
    location = [str(part) for part in detail["loc"]]
    name = ".".join(location)
    if detail["type"] != "extra_forbidden":
        return f"{name} = {_told(location, detail['input'])}: {shown(detail['msg'])}"
    known = sorted({name for group in _groups_at(location[:-1]) for name in group.model_fields})
    near = get_close_matches(location[-1], known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
    return f"unknown setting {name!r}; {hint}"


def _told(location: list[str], value: object) -> str:
    """A wrong value as it may be told: not at all when its knob hides it, never with a password."""
    fields = [group.model_fields.get(location[-1]) for group in _groups_at(location[:-1])] if location else []
    if any(field is not None and not field.repr for field in fields):
        return "(hidden)"
    return shown(repr(value))


def _groups_at(location: list[str]) -> list[type[BaseModel]]:
    """The groups that can stand at ``location`` (empty: the top)."""
    groups: list[type[BaseModel]] = [Settings]
    for part in location:
        groups = [
            inner
            for group in groups
            for inner in _groups(group.model_fields[part].annotation if part in group.model_fields else None)
        ] or [group for group in groups if _is_kind(group, part)]
    return groups


def _is_kind(group: type[BaseModel], part: str) -> bool:
    """Whether ``part`` is the tag by which pydantic names ``group`` in a union."""
    kind = group.model_fields.get("kind")
    return kind is not None and kind.default == part


def _groups(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return [inner for argument in typing.get_args(annotation) for inner in _groups(argument)]
    return []
