"""A real PostgreSQL on loopback, as an ordinary user, for tests of whatever keeps its state in one."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

USER = "feedloop"
PASSWORD = "correct-horse"  # noqa: S105 (of a throw-away server on loopback)


def programs() -> Path | None:
    """The folder of ``initdb`` and ``postgres``; None when PostgreSQL's server is not installed."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    versions = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(versions, key=lambda folder: float(folder.parent.name), default=None)


class Postgres:
    """One server with its files in ``folder``; started and stopped by its own process id."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._initialise()

    def url(self, database: str = "postgres", *, user: str = USER, password: str = PASSWORD) -> str:
        """The address of a database: ``postgresql://…``, with the password."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def fresh_database(self, like: str = "template1") -> str:
        """Create a database of its own, empty or a copy of another one; returns its address."""
        name = f"test_{uuid.uuid4().hex}"
        self.execute(self.url(), f"CREATE DATABASE {name} TEMPLATE {like}")
        return self.url(name)

    def execute(self, url: str, *statements: str) -> None:
        """Run statements, each in a transaction of its own."""
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def start(self) -> None:
        """Start the server and wait until it answers."""
        # No Unix socket: its path has a length limit, and TCP on loopback is what is tested.
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        options |= {"max_connections": "200", "shared_buffers": "32MB"}
        command = [str(self._binaries / "postgres"), "-D", str(self._folder / "data"), "-p", str(self.port)]
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **self._owner())
        for _ in range(600):
            assert self._process.poll() is None, self._log()
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(self._log())

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server without waiting for its clients; nothing if it is stopped.

        Args:
            how: SIGINT ends in order; SIGQUIT at once, as a crash does, without writing everything down.
        """
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=60)
            self._process = None

    def _initialise(self) -> None:
        owner = self._owner()
        password = self._folder / "password"
        password.write_text(PASSWORD)
        if "user" in owner:
            for path in (self._folder, password):
                os.chown(path, owner["user"], owner["group"])
        command = [str(self._binaries / "initdb"), "-D", str(self._folder / "data"), "-U", USER]
        command += ["--pwfile", str(password), "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **owner)

    def _owner(self) -> dict[str, Any]:
        """PostgreSQL refuses to run as root: whose process it is then."""
        ordinary: dict[str, Any] = {"cwd": self._folder, "env": os.environ | {"LC_ALL": "C", "HOME": str(self._folder)}}
        if os.geteuid() != 0:
            return ordinary
        known = {account.pw_name: account for account in pwd.getpwall()}
        account = known.get("postgres") or known["nobody"]
        return ordinary | {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def _log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Start a server with an empty cluster; skips the test where PostgreSQL is not installed."""
    binaries = programs()
    if binaries is None:
        pytest.skip("PostgreSQL's server is not installed: no initdb on the PATH and none in /usr/lib/postgresql")
    folder = Path(tempfile.mkdtemp(prefix="feedloop-postgres-"))
    try:
        server = Postgres(binaries, folder)
        try:
            server.start()
            yield server
        finally:
            server.stop(signal.SIGQUIT)
    finally:
        shutil.rmtree(folder)
