"""One command's surroundings: its settings, its output, and how it ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from threading import Thread
from typing import Any

from deployments.embedded import prepare, start_server_early, without_heartbeats
from deployments.output import Output
from ranking.errors import FeedloopError
from settings.loading import load
from settings.model import Settings


class Session:
    """What every command needs.  Settings are read once, inside :meth:`do`, so that their errors are told too."""

    def __init__(
        self, *, config: Path | None, data: str | None, as_json: bool, verbose: bool, read_settings: bool = True
    ) -> None:
        self.output = Output(as_json=as_json, verbose=verbose)
        self.config = str(config) if config else None
        # On the command line a relative path starts where the shell stands.
        self.data = str(Path(data).absolute()) if data and "://" not in data else data
        self.verbose = verbose
        self._read_settings = read_settings
        self._server: Thread | None = None

    @cached_property
    def settings(self) -> Settings:
        """The settings of this command."""
        return load(self.config, data_uri=self.data)

    @contextmanager
    def flows(self, needs: tuple[str, ...] = ()) -> Iterator[None]:
        """Flows are run inside this block.  It waits for the server started early: two starts would be two servers.

        Args:
            needs: modules that the flows will import; while the server starts there is time to do it.
        """
        if self._server is not None:
            for module in needs:
                import_module(module)
            self._server.join()
        with without_heartbeats():
            yield

    def do(self, work: str, *, runs_flows: bool = False, **arguments: Any) -> int:
        """Run a command and return its exit code; errors of feedloop become one paragraph.

        Args:
            work: the command's function as ``module:name``.  It is imported only after the environment of an
                embedded run is set, because Prefect reads that environment when it is imported.
            runs_flows: it will need a Prefect server, so one is started while everything else is imported.
            arguments: passed to it after the session.
        """
        try:
            prepare(self.settings.workspace if self._read_settings else None, verbose=self.verbose)
            if runs_flows:
                self._server = start_server_early()
            return int(resolve_name(work)(self, **arguments))
        except FeedloopError as error:
            return self.output.fail(error)
        except KeyboardInterrupt:
            return 130
        finally:
            self.output.close()
