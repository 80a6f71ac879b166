"""The ledger in a table of PostgreSQL, which itself refuses to change or delete an entry."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Timer
from typing import Any

import sqlalchemy
from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Table, Text, func, insert, select, text
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from ranking.errors import AccessDenied, RegistryError, RegistryUnavailable
from ranking.ledger import LedgerEntry
from settings.addresses import shown, without_password
from tasks.adapters.ledger import Draft, chained, read_chain, settled, trusted, written

CONNECT_TIMEOUT_SECONDS = 10
STATEMENT_TIMEOUT_SECONDS = 8
"""How long PostgreSQL itself works on one statement, or waits for a lock."""
ANSWER_TIMEOUT_SECONDS = 10.0
"""How long a transaction may take; a server that is frozen does not see its own timeouts pass."""

_DRIVERS = ("postgresql", "postgresql+psycopg")
_OPTIONS: dict[str, Any] = {
    "connect_timeout": CONNECT_TIMEOUT_SECONDS,
    "client_encoding": "utf8",
    "fallback_application_name": "feedloop",
}
_TABLE = Table(
    "feedloop_ledger",
    MetaData(),
    Column("model", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("entry", Text, nullable=False),
)
_APPEND_ONLY = (
    """
    CREATE OR REPLACE FUNCTION feedloop_ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'feedloop_ledger is append-only: % is refused', TG_OP; END $$
    """,
    """
    CREATE TRIGGER feedloop_ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON feedloop_ledger
    FOR EACH STATEMENT EXECUTE FUNCTION feedloop_ledger_refuse()
    """,
)
# Of this transaction only, so that it also holds behind a connection pool such as PgBouncer.  An
# entry that was acknowledged must survive a crash, whatever the database prefers otherwise.
_LIMITS = text(
    "SELECT set_config('statement_timeout', :limit, true), set_config('lock_timeout', :limit, true), "
    "CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END"
).bindparams(limit=f"{STATEMENT_TIMEOUT_SECONDS}s")
_ONE_CREATOR = select(func.pg_advisory_xact_lock(int.from_bytes(b"feedloop", "big")))
_IS_THERE = text("SELECT to_regclass('feedloop_ledger') IS NOT NULL")

_NO_TABLE = "42P01"
_NO_RIGHTS = "42501"
# Connection lost, serialization, out of connections or space, lock timeout, cancelled or shutting down, standby.
_PASSING = ("08", "40", "53", "55P03", "57", "25006")
# PostgreSQL gives no code with a refused connection.  In another language than English such a
# refusal counts as "no answer", which is told in the server's own words too.
_REFUSALS = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
    "permission denied",
    "not permitted to log in",
    "does not support SSL",
    "certificate",
)


class SqlLedger:
    """One table ``feedloop_ledger`` for all models, with the primary key ``(model, number)``.

    An entry is one INSERT in a transaction of its own, so each number has exactly one author.  The
    first append creates the table.  Every call opens a connection and closes it: a server that was
    restarted leaves no broken one behind.

    Append-only is enforced three times.  Roles: a promoter needs no more than SELECT and INSERT, a
    reader SELECT.  A trigger: UPDATE, DELETE and TRUNCATE fail, for the owner too.  The chain: when
    the owner or a superuser takes the trigger away and edits an entry, :meth:`verify` names it.

    Args:
        ledger_uri: ``postgresql://…`` or ``postgresql+psycopg://…``; its options go to the driver.
        model_name: registered model that the ledger belongs to.

    Raises:
        RegistryError: the address cannot be used, or the driver is not installed.
    """

    def __init__(self, ledger_uri: str, model_name: str) -> None:
        self._uri = ledger_uri
        self._model = model_name
        self._engine = _engine(ledger_uri)

    def entries(self) -> tuple[LedgerEntry, ...]:
        """See :meth:`Ledger.entries`."""
        place = f"the table {_TABLE.name} of {shown(self._uri)} (model {self._model!r})"
        return trusted(self._texts(), place)

    def head(self) -> LedgerEntry | None:
        """See :meth:`Ledger.head`."""
        entries = self.entries()
        return entries[-1] if entries else None

    def append(self, draft: Draft, expected_head: LedgerEntry | None) -> LedgerEntry:
        """See :meth:`Ledger.append`."""
        entry = chained(draft, expected_head)
        row = {"model": self._model, "number": entry.number, "entry": written(entry)}
        error: RegistryError | None = None
        with _answered(self._uri), self._engine.connect() as connection:
            # Without a connection nothing was sent.  From here on, only reading tells: taken by
            # somebody else, or written with the answer lost on the way.
            try:
                with _answered(self._uri):
                    _insert(connection, row)
            except RegistryError as problem:
                error = problem
        return settled(entry, self.entries(), error)

    def verify(self) -> tuple[str, ...]:
        """See :meth:`Ledger.verify`."""
        return tuple(read_chain(self._texts())[1])

    def _texts(self) -> list[tuple[int, str]]:
        query = select(_TABLE.c.number, _TABLE.c.entry).where(_TABLE.c.model == self._model).order_by(_TABLE.c.number)
        with _answered(self._uri), self._engine.connect() as connection:
            try:
                with _transaction(connection):
                    return [(number, entry) for number, entry in connection.execute(query)]
            except DBAPIError as error:
                if _code(error) != _NO_TABLE:
                    raise
                return []


def _insert(connection: Connection, row: dict[str, Any]) -> None:
    try:
        with _transaction(connection):
            connection.execute(insert(_TABLE), row)
    except DBAPIError as error:
        if _code(error) != _NO_TABLE:
            raise
        _create(connection)
        with _transaction(connection):
            connection.execute(insert(_TABLE), row)


def _create(connection: Connection) -> None:
    """Create the table unless it is there.  CREATE IF NOT EXISTS alone fails when several do it at once."""
    with _transaction(connection):
        connection.execute(_ONE_CREATOR)
        if not connection.scalar(_IS_THERE):
            _TABLE.create(connection, checkfirst=False)
            for statement in _APPEND_ONLY:
                connection.execute(text(statement))


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    """One transaction that ends in time, on a server that is slow, locked or frozen."""
    timer = Timer(ANSWER_TIMEOUT_SECONDS, _hang_up, [connection.connection.driver_connection])
    timer.daemon = True
    timer.start()
    try:
        with connection.begin():
            connection.execute(_LIMITS)
            yield
    finally:
        timer.cancel()
        timer.join()  # or it might hang up on whoever is given the same descriptor next


def _hang_up(driver_connection: Any) -> None:
    """Shut the connection down under a driver that waits for an answer; it then reports it as lost."""
    import psycopg

    with (
        suppress(psycopg.Error, OSError),  # it is closed already
        socket.fromfd(driver_connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as line,
    ):
        line.shutdown(socket.SHUT_RDWR)


def _engine(uri: str) -> Engine:
    try:
        url = sqlalchemy.make_url(uri)
    except (SQLAlchemyError, ValueError):
        url = None
    # An @ in the host is the rest of a password that was not escaped.
    if url is None or url.drivername not in _DRIVERS or "@" in (url.host or ""):
        raise RegistryError(
            f"registry.ledger_uri = {shown(uri)} is not an address of PostgreSQL. Write "
            "postgresql://USER@HOST/DATABASE; a special character in a name or a password is written as %XX (@ is %40)."
        )
    try:
        return sqlalchemy.create_engine(
            url.set(drivername="postgresql+psycopg"),
            poolclass=sqlalchemy.NullPool,
            connect_args={name: value for name, value in _OPTIONS.items() if name not in url.query},
            hide_parameters=True,
        )
    except ImportError as error:
        raise RegistryError(
            f"The ledger in PostgreSQL needs its driver, which cannot be imported: {error}. "
            "Install it with `pip install feedloop[postgres]`."
        ) from error


@contextmanager
def _answered(uri: str) -> Iterator[None]:
    """Translate what SQLAlchemy and the driver raise.

    Raises:
        RegistryUnavailable: no answer, or "try again later".
        RegistryError: any other "no".
    """
    try:
        yield
    except SQLAlchemyError as error:
        raise _translated(uri, error) from error


def _translated(uri: str, error: SQLAlchemyError) -> RegistryError:
    said = " ".join(without_password(str(getattr(error, "orig", error)), uri).split())[:500].rstrip(" .?")
    code = _code(error)
    if code is None and isinstance(error, OperationalError) and any(sign in said for sign in _REFUSALS):
        return RegistryError(
            f"The ledger's database {shown(uri)} refused the connection: {said}. Check user and database in "
            "registry.ledger_uri, and the password in PGPASSWORD or ~/.pgpass."
        )
    if code == _NO_RIGHTS:
        return AccessDenied(
            f"The ledger's database {shown(uri)} refused: {said}. A reader needs SELECT on the table {_TABLE.name}, "
            "a promoter SELECT and INSERT; who promotes first also needs CREATE on the schema, to create it."
        )
    if code.startswith(_PASSING) if code else isinstance(error, OperationalError):
        return RegistryUnavailable(
            f"The ledger's database {shown(uri)} did not answer: {said}. Check that PostgreSQL runs, and that "
            "registry.ledger_uri is right; repeating is safe."
        )
    return RegistryError(f"The ledger's database {shown(uri)} answered with {code or 'an error'}: {said}.")


def _code(error: SQLAlchemyError) -> str | None:
    """The SQLSTATE of an answer; None when there was no answer."""
    code = getattr(getattr(error, "orig", None), "sqlstate", None)
    return None if code is None else str(code)
