"""Which ports the servers listen on: the usual ones, or the next that are free."""

import socket

from ranking.errors import SettingsError

HOST = "127.0.0.1"
TRIED = 50
"""Ports looked at, from the usual one upwards."""


def port_for(title: str, usual: int, named: int | None, option: str, taken: set[int]) -> int:
    """A free port: the named one, or else the first from the usual one on.

    Args:
        title: who wants it, for the error.
        usual: where people look for it.
        named: what the user asked for; then no other will do.
        option: the option that names it.
        taken: ports that were given out already.

    Raises:
        SettingsError: the named port, or all that were tried, are in use.
    """
    if named is not None:
        if named in taken or not free(named):
            raise SettingsError(
                f"Port {named} on {HOST} is in use, so the {title} cannot listen there. Stop what does, name another "
                f"with {option}, or leave the option out: then the next free port is taken."
            )
        return named
    for port in range(usual, usual + TRIED):
        if port not in taken and free(port):
            return port
    raise SettingsError(
        f"No port from {usual} to {usual + TRIED - 1} on {HOST} is free for the {title}. Name one with {option}."
    )


def free(port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as probe:
        # As servers do: a connection that was closed a moment ago does not keep the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
