"""``feedloop up``: start everything, say where it is, watch it, and stop it again."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from rich.markup import escape
from rich.table import Table

from deployments.session import Session
from deployments.stack.place import ELSEWHERE, Place, alone, find_settings, mark_of
from deployments.stack.ports import port_for
from deployments.stack.processes import Process, end
from deployments.stack.services import SERVICES, Service
from ranking.errors import ServerUnavailable

READY_SECONDS = 180.0
"""On two busy cores, the first start of a server writes its tables and its pages for most of a minute."""

WATCH_SECONDS = 0.5


class Stop:
    """Whether somebody has asked to stop: Ctrl-C, SIGTERM, a closed terminal; twice means now."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._again = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """A signal has arrived."""
        self._again = self._asked.is_set()
        self._asked.set()

    @property
    def asked(self) -> bool:
        """Whether to stop."""
        return self._asked.is_set()

    def impatient(self) -> bool:
        """Whether to stop at once."""
        return self._again

    def within(self, seconds: float) -> bool:
        """Wait so long; True as soon as somebody asks to stop."""
        return self._asked.wait(seconds)


def up(session: Session, *, pool: str, ports: Mapping[str, int | None]) -> int:
    """Start everything, and stop it when asked; 0 then.

    Args:
        session: of the command.
        pool: the work pool.
        ports: where each service that listens has to; None is its usual port, or the next that is free.

    Raises:
        SettingsError: the settings are wrong, or a named port is in use.
        StorageError: the workspace cannot be written, or another stack runs in it.
        ServerUnavailable: a program has ended by itself, or does not become ready.
    """
    config, settings, written = find_settings(session.config)
    with alone(Path(settings.workspace)), _stoppable() as stop, _running(session, stop) as running:
        session.output.say(f"{'Wrote' if written else 'Settings:'} {config}")
        session.output.say(f"Everything is kept in {settings.workspace}")
        if left := end(mark_of(settings.workspace), stop.impatient):
            session.output.say(f"An earlier `feedloop up` was killed here; {left} processes it left were ended.")
        place = Place(config, settings, _ports(ports), pool)
        _lead_here(place)
        _start(session, place, running, stop)
        if not stop.asked:
            _tell(session, place, list(running))
        while not stop.within(WATCH_SECONDS):
            _check(running)
    return 0


def _ports(named: Mapping[str, int | None]) -> dict[str, int]:
    found: dict[str, int] = {}
    for service in SERVICES:
        if service.usual_port is not None:
            taken = set(found.values())
            found[service.name] = port_for(
                service.title, service.usual_port, named.get(service.name), service.option, taken
            )
    return found


@contextmanager
def _stoppable() -> Iterator[Stop]:
    stop = Stop()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _running(session: Session, stop: Stop) -> Iterator[dict[str, Process]]:
    """What was started within the block, by name; stopped at its end, the last one first."""
    running: dict[str, Process] = {}
    try:
        yield running
    finally:
        for process in reversed(running.values()):
            session.output.say(f"Stopping the {process.title} …")
            process.stop(stop.impatient)
        if running:
            session.output.say("Everything is stopped.")


def _lead_here(place: Place) -> None:
    """Let this process too talk to the stack's Prefect; it reads the environment when it is imported."""
    for name in ELSEWHERE:
        os.environ.pop(name, None)
    os.environ.update(place.environment)


def _start(session: Session, place: Place, running: dict[str, Process], stop: Stop) -> None:
    """Start the servers, do what needs none while they start, register the flows, start the rest."""
    first = [service for service in SERVICES if not service.after]
    _prepare(session, place)
    since = {service.name: _launch(session, place, service, running) for service in first if not stop.asked}
    _sample(session, place)
    for service in first:
        _await(session, place, service, running, stop, since.get(service.name))
    if stop.asked:
        return
    with session.output.console.status("registering the flows"):
        _register(session, place)
    for service in SERVICES:
        if service.after and not stop.asked:
            _await(session, place, service, running, stop, _launch(session, place, service, running))


def _prepare(session: Session, place: Place) -> None:
    """Open MLflow's store before its server does: a first use is only safe by one process at a time."""
    from tasks.stores import open_both

    with session.output.console.status("opening the registry"):
        open_both(**place.settings.store)


def _sample(session: Session, place: Place) -> None:
    """Give the sample feed its first days, so that there is something to retrain on."""
    from deployments.story import FIRST_DAYS, serve_days

    settings = place.settings
    if settings.is_sample:
        from tasks.sample import SampleFeed

        if SampleFeed(settings.sample_folder, settings.world, settings.data.window_days).days == 0:
            serve_days(session, FIRST_DAYS)


def _register(session: Session, place: Place) -> None:
    from deployments.deploying import register_everything
    from deployments.server import prefect_server

    with prefect_server() as client:
        done = register_everything(client, place.settings, config=place.config, pool=place.pool)
    session.output.say(f"Registered {', '.join(done.deployments)}.")


def _launch(session: Session, place: Place, service: Service, running: dict[str, Process]) -> datetime | None:
    """Start a service; returns when, or None if it is not wanted."""
    because = service.not_wanted(place)
    if because is not None:
        session.output.say(f"No {service.title}: {because}.")
        return None
    since = datetime.now(UTC)
    environment = place.of_service(service.name, service.environment(place))
    mark, log = mark_of(place.settings.workspace, service.name), place.logs / f"{service.name}.log"
    running[service.name] = Process(service.title, service.command(place), environment, mark, log)
    return since


def _await(
    session: Session, place: Place, service: Service, running: dict[str, Process], stop: Stop, since: datetime | None
) -> None:
    """Wait until a service is ready, or somebody asks to stop."""
    if since is None:
        return
    start = time.monotonic()
    with session.output.console.status(f"starting the {service.title}"):
        while not stop.asked:
            _check(running)
            if service.ready(place, since):
                break
            if time.monotonic() - start > READY_SECONDS:
                process = running[service.name]
                raise ServerUnavailable(
                    f"The {service.title} is not ready after {READY_SECONDS:.0f} s. The end of {process.log}:\n"
                    f"{process.last_words()}"
                )
            stop.within(WATCH_SECONDS / 2)
        else:
            return
    seconds = (datetime.now(UTC) - since).total_seconds()
    session.output.say(f"The {service.title} is ready, after {seconds:.0f} s.")


def _check(running: Mapping[str, Process]) -> None:
    for process in running.values():
        code = process.ended_with
        if code is not None:
            how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
            raise ServerUnavailable(
                f"The {process.title} has ended by itself ({how}), so everything else is stopped too. The end of "
                f"{process.log}:\n{process.last_words()}"
            )


def _tell(session: Session, place: Place, names: list[str]) -> None:
    """Where everything is, and what to do with it."""
    addresses = {service.name: service.address(place) for service in SERVICES if service.name in names}
    table = Table(box=None, padding=(0, 2))
    table.add_column("running")
    table.add_column("address")
    table.add_column("log")
    for service in SERVICES:
        if service.name in names:
            where = addresses[service.name] or f"pool {place.pool}"
            moved = service.usual_port is not None and place.ports[service.name] != service.usual_port
            note = f"  (port {service.usual_port} was not used)" if moved else ""
            table.add_row(service.title, escape(f"{where}{note}"), f"logs/{service.name}.log")
    output = session.output
    output.say()
    output.console.print(table)
    output.say()
    output.say(f"Retrain: {addresses['prefect']}/deployments, retrain, Run. It asks there before it promotes.")
    if "mlflow" in addresses:
        output.say(f"Models: {addresses['mlflow']}/#/models")
    output.say(f"In another terminal: export PREFECT_API_URL={place.prefect_api}")
    output.say(f"  feedloop pending --config {place.config}")
    if place.settings.is_sample:
        output.say(f"  feedloop simulate --days 7 --config {place.config}")
        output.say("The sample feed has a calendar of its own: give `monitor` the moment it shall look at, as `now`.")
    output.say("Ctrl-C stops everything; the next `feedloop up` goes on where it stopped.")
    output.finish(
        addresses={name: address for name, address in addresses.items() if address is not None},
        prefect_api=place.prefect_api,
        pool=place.pool,
        config=str(place.config),
        workspace=str(place.workspace),
        logs=str(place.logs),
    )
