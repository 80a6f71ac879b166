"""One program of a stack: started with a log, watched, and stopped without leaving anything behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ranking.errors import StorageError

GRACE_SECONDS = 20.0
"""A program that was asked to end has so long."""

LEFT_BEHIND_SECONDS = 5.0
"""What a program leaves behind, such as the run of a flow, is asked too, and has so long."""

TAIL_LINES = 15
PAUSE_SECONDS = 0.1


class Process:
    """A running program in a process group of its own, so that Ctrl-C at the terminal does not reach it."""

    def __init__(self, title: str, command: list[str], environment: dict[str, str], mark: str, log: Path) -> None:
        """Start it.

        Args:
            title: what people call it.
            command: arguments of this Python.
            environment: all of it.
            mark: the entry ``NAME=value`` of the environment that its processes, and only they, carry.
            log: file that takes its output; an earlier one is kept as ``.1``.

        Raises:
            StorageError: the log cannot be written.
        """
        self.title, self.log, self._mark = title, log, mark
        # MLflow looks for its server's program on the path.
        path = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            if log.exists():
                log.replace(log.with_suffix(".log.1"))
            with log.open("wb") as output:
                self._process = subprocess.Popen(  # noqa: S603 (a program of the table, run by this Python)
                    [sys.executable, *command],
                    env=environment | {"PATH": path, "PYTHONUNBUFFERED": "1"},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            raise StorageError(
                f"The log {log} cannot be written: {error.strerror}. Free the disk, or allow it."
            ) from error

    @property
    def ended_with(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def last_words(self) -> str:
        """The end of its log."""
        with suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        return ""

    def stop(self, impatient: Callable[[], bool]) -> None:
        """Ask it to end, then whatever it left behind; kill what does not.

        Args:
            impatient: whether somebody wants it to be over now.
        """
        self._signal(signal.SIGTERM)
        _until(lambda: self.ended_with is not None or impatient(), GRACE_SECONDS)
        # The worker is gone, the runs it started may not be.
        end(self._mark, impatient)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, which: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, which)


def end(mark: str, impatient: Callable[[], bool]) -> int:
    """End every process whose environment has an entry that begins with ``mark``; returns how many there were.

    Where the system does not show environments (no ``/proc``) none is found, and process groups have to do.
    """
    found = marked(mark)
    for one in found:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGTERM)
    _until(lambda: not marked(mark) or impatient(), LEFT_BEHIND_SECONDS)
    while left := marked(mark):
        for one in left:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        time.sleep(PAUSE_SECONDS)
    return len(found)


def marked(mark: str) -> list[int]:
    """Running processes, but this one, whose environment has an entry that begins with ``mark``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        # Processes of others cannot be read, and one that has just ended has no environment any more.
        with suppress(OSError):
            entries = (folder / "environ").read_bytes().split(b"\0")
            if any(entry.startswith(mark.encode()) for entry in entries):
                found.append(int(folder.name))
    return [one for one in found if one != os.getpid()]


def _until(done: Callable[[], bool], seconds: float) -> None:
    end_of_patience = time.monotonic() + seconds
    while not done() and time.monotonic() < end_of_patience:
        time.sleep(PAUSE_SECONDS)
