"""Run a script in an interpreter that knows nothing of this one: the way a third party's process starts."""

import os
import subprocess
import sys
from pathlib import Path

from ranking.errors import BundleError
from ranking.results import ModelRef

TIMEOUT_SECONDS = 180.0


def ask_in_clean_process(ref: ModelRef, script: str, arguments: tuple[Path, ...], folder: Path) -> None:
    """Run ``script`` with ``arguments``; what it answers it leaves in a file.

    Args:
        ref: the version it is about, for the messages.
        script: Python that loads the model by MLflow alone.
        arguments: paths, as ``sys.argv[1:]``.
        folder: working directory.

    Raises:
        BundleError: it did not finish in ``TIMEOUT_SECONDS``, or it failed.
    """
    try:
        # -P and another working directory: nothing of this project may be found but by being installed.
        done = subprocess.run(  # noqa: S603 (this interpreter, on arguments made here)
            [sys.executable, "-P", "-c", script, *map(str, arguments)],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BundleError(
            f"Version {ref.version} of {ref.name!r} did not answer in a clean process within {TIMEOUT_SECONDS:.0f} s. "
            "It is not fit to serve; train again, or look at the machine's load."
        ) from error
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"no message, exit status {done.returncode}"]
        raise BundleError(
            f"Version {ref.version} of {ref.name!r} does not load in a clean process by MLflow alone: {last[0]} "
            "It is not fit to serve. Register the model again."
        )
