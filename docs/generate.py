"""Write docs/settings.md and docs/commands.md from the code.  ``python -m docs.generate [--check]``."""

import sys
import types
import typing
from pathlib import Path
from typing import Any

import click
import typer
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

FOLDER = Path(__file__).parent


def settings_page() -> str:
    """The settings reference as Markdown."""
    from settings.model import Settings

    lines = [
        "# Settings",
        "",
        "Generated from the code by `make docs`. Every knob can stand in `feedloop.toml` or in the environment: "
        "`gate.min_auc_improvement` is `FEEDLOOP_GATE__MIN_AUC_IMPROVEMENT`. Arguments win over the environment, "
        "the environment over the file. An unknown key is an error that names the nearest known one.",
    ]
    top = [name for name, field in Settings.model_fields.items() if not _groups(field.annotation)]
    lines += ["", "## Top level", "", *_table(Settings, top)]
    for name, field in Settings.model_fields.items():
        for group in _groups(field.annotation):
            lines += _section(name, group)
    return "\n".join(lines) + "\n"


def _section(name: str, group: type[BaseModel]) -> list[str]:
    kind = group.model_fields.get("kind")
    title = f"`[{name}]`" + (f' with `kind = "{kind.default}"`' if kind else "")
    lines = ["", f"## {title}", "", (group.__doc__ or "").strip().splitlines()[0], ""]
    plain = [field for field, info in group.model_fields.items() if not _groups(info.annotation)]
    lines += _table(group, plain)
    for field, info in group.model_fields.items():
        for inner in _groups(info.annotation):
            lines += _section(f"{name}.{field}", inner)
    return lines


def _table(group: type[BaseModel], names: list[str]) -> list[str]:
    rows = ["| knob | default | bounds | meaning |", "| --- | --- | --- | --- |"]
    for name in names:
        info = group.model_fields[name]
        default = info.get_default(call_default_factory=True) if not info.is_required() else "required"  # type: ignore[call-arg]  # pydantic's overloads want validated data
        rows.append(
            f"| `{name}` | `{_shown(default)}` | {_bounds(info)} | {(info.description or '').replace('|', '/')} |"
        )
    return rows


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return "[]" if value == () else str(value)


def _bounds(info: FieldInfo) -> str:
    signs = ((Ge, "ge", ">="), (Gt, "gt", ">"), (Le, "le", "<="), (Lt, "lt", "<"))
    found = [
        f"{sign} {getattr(bound, name):g}"
        for bound in _metadata(info)
        for kind, name, sign in signs
        if isinstance(bound, kind)
    ]
    literal = [
        value for argument in (info.annotation, *typing.get_args(info.annotation)) for value in _choices(argument)
    ]
    return ", ".join([*found, *(f"`{value}`" for value in literal)]) or "any"


def _metadata(info: FieldInfo) -> list[Any]:
    inner = [meta for argument in typing.get_args(info.annotation) for meta in getattr(argument, "__metadata__", ())]
    return [*info.metadata, *inner]


def _choices(annotation: Any) -> tuple[Any, ...]:
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


def _groups(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [inner for argument in typing.get_args(annotation) for inner in _groups(argument)]
    return []


def commands_page() -> str:
    """The command reference as Markdown."""
    from deployments.cli import __doc__ as overview
    from deployments.cli import app

    root = typer.main.get_command(app)
    lines = ["# Commands", "", "Generated from the code by `make docs`.", "", (overview or "").strip()]
    if not isinstance(root, click.Group):
        raise TypeError("the command line has more than one command, so it is a group")
    for name, command in root.commands.items():
        arguments = " ".join(
            p.make_metavar(click.Context(command)) for p in command.params if p.param_type_name == "argument"
        )
        lines += [
            "",
            f"## `feedloop {name}{' ' + arguments if arguments else ''}`",
            "",
            (command.help or "").strip(),
            "",
        ]
        lines += ["| option | meaning |", "| --- | --- |"]
        for parameter in command.params:
            label = " / ".join(parameter.opts) if parameter.param_type_name == "option" else parameter.name
            lines.append(f"| `{label}` | {(getattr(parameter, 'help', '') or '').replace('|', '/')} |")
    return "\n".join(lines) + "\n"


PAGES = {"settings.md": settings_page, "commands.md": commands_page}


def main() -> int:
    """Write the pages, or with ``--check`` only say which are out of date."""
    stale = [name for name, page in PAGES.items() if not _same(FOLDER / name, page())]
    if "--check" not in sys.argv:
        for name in stale:
            (FOLDER / name).write_text(PAGES[name](), encoding="utf-8")
        return 0
    if stale:
        sys.stderr.write(f"Out of date: {', '.join(stale)}. Run make docs.\n")
    return 1 if stale else 0


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
