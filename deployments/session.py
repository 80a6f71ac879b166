"""One command's surroundings: its settings, its output, and how it ends."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from deployments.output import Output
from ranking.errors import FeedloopError
from settings.loading import load
from settings.model import Settings


class Session:
    """What every command needs.  Settings are read once, inside :meth:`do`, so that their errors are told too."""

    def __init__(self, *, config: Path | None, data: str | None, as_json: bool, verbose: bool) -> None:
        self.output = Output(as_json=as_json, verbose=verbose)
        self.config = str(config) if config else None
        # On the command line a relative path starts where the shell stands.
        self.data = str(Path(data).absolute()) if data and "://" not in data else data
        self.verbose = verbose

    @cached_property
    def settings(self) -> Settings:
        """The settings of this command."""
        return load(self.config, **({"data": {"uri": self.data}} if self.data else {}))

    def do(self, work: Callable[["Session"], int], *, settings: bool = True) -> int:
        """Run a command and return its exit code; errors of feedloop become one paragraph.

        Args:
            work: the command.
            settings: read the settings and prepare an embedded Prefect before it starts.
        """
        from deployments.embedded import prepare

        try:
            if settings:
                prepare(self.settings.workspace, verbose=self.verbose)
            return work(self)
        except FeedloopError as error:
            return self.output.fail(error)
        except KeyboardInterrupt:
            return 130
