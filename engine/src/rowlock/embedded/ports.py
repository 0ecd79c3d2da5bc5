"""Choose a port for the server."""

from __future__ import annotations

import random
import socket

from rowlock.errors import ConfigurationError

HOST = "127.0.0.1"

# Below every usual range of ephemeral ports (they begin at 32768 on Linux, at 49152 on macOS) and
# of Kubernetes' node ports. While the server is down, a client's own outgoing connection could
# take an ephemeral port, and the restart would find it in use.
PORTS = range(20_000, 30_000)
TRIES = 100


def free_port() -> int:
    """A port that is free at this moment; it may be taken before it is used."""
    for port in random.sample(PORTS, TRIES):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Postgres does
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise ConfigurationError(
        f"no free port found among {TRIES} between {PORTS.start} and {PORTS.stop - 1}. Name one."
    )
