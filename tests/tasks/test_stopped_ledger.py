"""What the runbook says stops every promotion does stop it, and lets everybody go on reading."""

import pytest

from ranking.errors import RegistryError
from tests.postgres import Postgres
from tests.tasks.test_ledger import draft
from tests.tasks.test_sql_ledger import open_sql


def test_a_read_only_ledger_tells_who_serves_and_takes_no_entry(postgres: Postgres) -> None:
    uri = postgres.fresh_database()
    database = uri.rpartition("/")[2]
    first = open_sql(uri).append(draft(1), None)
    postgres.execute(postgres.url(), f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    with pytest.raises(RegistryError, match="read-only"):
        open_sql(uri).append(draft(2), first)
    assert open_sql(uri).entries() == (first,)
    assert open_sql(uri).verify() == ()
    postgres.execute(postgres.url(), f"ALTER DATABASE {database} RESET default_transaction_read_only")
    assert open_sql(uri).append(draft(2), first).number == 2
