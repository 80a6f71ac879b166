"""The gateway's end of the shadow's process: started, asked, watched, killed."""

import asyncio
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from deployments.gateway.frames import packed, receive
from deployments.gateway.serving import Loaded

NICENESS = 10
"""It steps back behind whoever answers users, but only so far: in idle time alone it starves on a busy machine."""

LOOK_SECONDS = 0.1
"""How often the memory of a process that computes is looked at."""


class ShadowFailed(Exception):
    """Raised when the shadow has no answer: it raised, ended, or took too much memory.

    Args:
        why: in words.
        usable: whether its process can be asked again.
    """

    def __init__(self, why: str, *, usable: bool = False) -> None:
        super().__init__(why)
        self.usable = usable


@dataclass(eq=False)
class Child:
    """A process that has one challenger loaded."""

    process: asyncio.subprocess.Process
    loaded: Loaded

    @classmethod
    async def start(cls, module: str, loaded: Loaded, *, idle: bool = False) -> Self:
        """A new process.

        Args:
            module: that it runs.
            loaded: whose challenger it is.
            idle: it gets only time that nobody else wants, from its first import on.
        """
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, stdin=pipe, stdout=pipe)
        with suppress(OSError):  # it may have ended already, and then its answer says so
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
            if idle and sys.platform == "linux":
                os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))
        return cls(process, loaded)

    async def ask(self, message: dict[str, Any], seconds: float, most_bytes: int) -> dict[str, Any]:
        """Its answer.

        Raises:
            TimeoutError: none in time.
            ShadowFailed: it raised, ended, or took more memory than it may.
        """
        answering = asyncio.ensure_future(self._asked(message))
        end = time.monotonic() + seconds
        try:
            while not answering.done():
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                await asyncio.wait({answering}, timeout=min(left, LOOK_SECONDS))
                used = resident_bytes(self.process.pid)
                if used > most_bytes:
                    raise ShadowFailed(f"it took {used / 2**20:,.0f} MB, and may take {most_bytes / 2**20:,.0f}")
            reply = answering.result()
        except TimeoutError:
            raise
        except (asyncio.IncompleteReadError, OSError, EOFError) as error:
            raise ShadowFailed(f"its process ended (exit code {self.process.returncode})") from error
        finally:
            answering.cancel()
        if "error" in reply:
            raise ShadowFailed(str(reply["error"]), usable=True)
        return reply

    async def _asked(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None  # noqa: S101 (it was started with pipes)
        assert self.process.stdout is not None  # noqa: S101 (it was started with pipes)
        self.process.stdin.write(packed(message))
        await self.process.stdin.drain()
        return await receive(self.process.stdout)

    async def kill(self) -> None:
        """End it, whatever it does."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


def resident_bytes(pid: int) -> int:
    """Memory that a process holds; 0 where the system does not say."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
