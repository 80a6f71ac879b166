"""The ledger in MLflow: the default, for the embedded store and for a team's server.

An MLflow *parameter* can be written once and never changed, so entry ``00000007`` has exactly one
author, whatever happens.
"""

from ranking.errors import RegistryError, UnknownModel
from ranking.ledger import LedgerEntry
from tasks.adapters.ledger import Draft, chained, read_chain, settled, trusted, written
from tasks.adapters.mlflow_errors import answered
from tasks.adapters.mlflow_store import Store

_POINTER_TAG = "feedloop.ledger_run"


class MlflowLedger:
    """One run whose write-once parameters ``00000001``, ``00000002``, … are the entries.

    The run is named by a tag of the experiment ``<model>-ledger-pointer``, which is created together
    with its tag: experiment names are unique, so all processes agree on one run, even when they
    start at the same moment or die half way.
    """

    def __init__(self, store: Store, model_name: str) -> None:
        self._store = store
        self._experiment = f"{model_name}-ledger"
        self._pointer = f"{model_name}-ledger-pointer"
        self._run: str | None = None

    def entries(self) -> tuple[LedgerEntry, ...]:
        """See :meth:`Ledger.entries`."""
        return trusted(self._texts(), f"the MLflow store (experiment {self._experiment!r})")

    def head(self) -> LedgerEntry | None:
        """See :meth:`Ledger.head`."""
        entries = self.entries()
        return entries[-1] if entries else None

    def append(self, draft: Draft, expected_head: LedgerEntry | None) -> LedgerEntry:
        """See :meth:`Ledger.append`."""
        entry = chained(draft, expected_head)
        text = written(entry)
        error: RegistryError | None = None
        try:
            run = self._run_id() or self._create_run()
            with answered(self._store.uri):
                self._store.client.log_param(run, _key(entry.number), text)
        except RegistryError as problem:
            # Taken by somebody else, or written with the answer lost on the way: only reading tells.
            error = problem
        return settled(entry, self.entries(), error)

    def verify(self) -> tuple[str, ...]:
        """See :meth:`Ledger.verify`."""
        return tuple(read_chain(self._texts())[1])

    def _texts(self) -> list[tuple[int, str]]:
        run = self._run_id()
        if run is None:
            return []
        with answered(self._store.uri):
            params = self._store.client.get_run(run).data.params
        return sorted((int(key), text) for key, text in params.items() if key.isdecimal())

    def _run_id(self) -> str | None:
        """The ledger's run; None when nothing was ever recorded."""
        if self._run is None:
            self._run = self._pointed_run()
        return self._run

    def _pointed_run(self) -> str | None:
        with answered(self._store.uri):
            pointer = self._store.client.get_experiment_by_name(self._pointer)
        if pointer is None:
            return None
        run = pointer.tags.get(_POINTER_TAG)
        if run is None:
            raise UnknownModel(
                f"The MLflow experiment {self._pointer!r} has lost its tag {_POINTER_TAG}: the ledger of promotions "
                "cannot be found. Restore the MLflow store from a backup."
            )
        return str(run)

    def _create_run(self) -> str:
        experiment = self._store.experiment(self._experiment)
        with answered(self._store.uri):
            candidate = self._store.client.create_run(experiment, run_name="ledger").info.run_id
        won = self._store.create_experiment(self._pointer, tags={_POINTER_TAG: candidate})
        chosen = candidate if won else self._pointed_run()
        if chosen is None:
            raise RegistryError(f"MLflow says that the experiment {self._pointer!r} exists and does not show it.")
        if chosen != candidate:
            with answered(self._store.uri):
                self._store.client.delete_run(candidate)
        return chosen


def _key(number: int) -> str:
    return f"{number:08d}"
