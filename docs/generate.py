"""Write the settings and command reference and the README's excerpt from the code: ``python -m docs.generate``."""

import types
import typing
from pathlib import Path
from textwrap import dedent
from typing import Any

import typer
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).parent.parent
MARK, MARK_END = "<!-- retrain -->", "<!-- /retrain -->"


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
    if isinstance(value, BaseModel):
        return getattr(value, "words", type(value).__name__)
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return "; ".join(_shown(part) for part in value)
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

    # Typer carries its own copy of click, so its objects are taken as they are.
    commands = _leaves(typer.main.get_command(app))
    lines = ["# Commands", "", "Generated from the code by `make docs`.", "", (overview or "").strip()]
    for name, command in commands.items():
        arguments = [f"<{p.name}>" for p in command.params if p.param_type_name == "argument"]
        lines += ["", f"## `{' '.join(['feedloop', name, *arguments])}`", "", (command.help or "").strip(), ""]
        lines += ["| option | meaning |", "| --- | --- |"]
        for parameter in command.params:
            label = " / ".join(parameter.opts) if parameter.param_type_name == "option" else f"<{parameter.name}>"
            lines.append(f"| `{label}` | {(parameter.help or '').replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def _leaves(group: Any, prefix: str = "") -> dict[str, Any]:
    """Every command by what is typed, those of groups after the group's name."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        is_group = hasattr(command, "commands")
        found |= _leaves(command, f"{prefix}{name} ") if is_group else {f"{prefix}{name}": command}
    return found


def readme() -> str:
    """The README with its excerpt of the retrain flow as the code has it now."""
    source = (ROOT / "flows" / "retrain.py").read_text(encoding="utf-8")
    body = dedent(source[source.index("    champion = current_champion") : source.index("    return Retraining(")])
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    start, end = text.index(MARK) + len(MARK), text.index(MARK_END)
    return f"{text[:start]}\n```python\n{body}```\n{text[end:]}"


PAGES = {"docs/settings.md": settings_page, "docs/commands.md": commands_page, "README.md": readme}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (ROOT / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
