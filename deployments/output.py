"""What a command prints: words for people on standard output, or exactly one JSON object for scripts."""

import json
import logging
import os
import sys
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.logging import RichHandler
from rich.markdown import Markdown
from rich.markup import escape
from rich.text import Text

from ranking.errors import FeedloopError


class Output:
    """Where a command's words and results go.

    With ``as_json`` file descriptor 1 is lent to standard error for the whole command, so that no library and
    no child process can print beside the one object that :meth:`finish` writes.
    """

    def __init__(self, *, as_json: bool, verbose: bool) -> None:
        self.as_json = as_json
        self._finished = False
        self._stdout = os.dup(1) if as_json else None
        if as_json:
            sys.stdout.flush()
            os.dup2(2, 1)
        self.console = Console(stderr=as_json, highlight=False, soft_wrap=False)
        self._log(verbose)

    def _log(self, verbose: bool) -> None:
        handler = RichHandler(
            console=Console(stderr=True, highlight=False), show_path=False, show_level=False, log_time_format="%H:%M:%S"
        )
        logger = logging.getLogger("feedloop")
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.DEBUG if verbose else logging.INFO)

    def say(self, text: str = "") -> None:
        """A line of plain words."""
        self.console.print(escape(text))

    def step(self, text: str) -> None:
        """The heading of a step of the story."""
        self.console.print(Text(f"\n■ {text}", style="bold"))

    def markdown(self, text: str) -> None:
        """A block of Markdown, tables drawn."""
        self.console.print(Markdown(text))

    def finish(self, **values: BaseModel | list[Any] | dict[str, Any] | str | int | None) -> None:
        """The command's result: printed as one JSON object with ``--json``, otherwise left to the words.

        Only the first one is printed: what goes wrong after a result was given is told on standard error.
        """
        if self._stdout is None or self._finished:
            return
        self._finished = True
        text = json.dumps({name: _plain(value) for name, value in values.items()}, ensure_ascii=False, indent=2)
        with os.fdopen(os.dup(self._stdout), "w", encoding="utf-8") as stream:
            stream.write(text + "\n")

    def close(self) -> None:
        """Give standard output back."""
        if self._stdout is not None:
            sys.stdout.flush()
            os.dup2(self._stdout, 1)
            os.close(self._stdout)
            self._stdout = None

    def fail(self, error: FeedloopError) -> int:
        """Tell an error in one paragraph; the exit code is the error's own."""
        Console(stderr=True, highlight=False).print(Text(f"{type(error).__name__}: {error}", style="red"))
        self.finish(error={"type": type(error).__name__, "message": str(error), "exit_code": error.exit_code})
        return error.exit_code


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
