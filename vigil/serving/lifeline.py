"""What ends workers whose supervisor has died: a pipe that the supervisor alone holds open.

A pipe, because the kernel closes it whatever ends the supervisor, at once and on every system. A parent's number
would not do: it is 1 in a container, where the supervisor lives, and 1 where it is dead.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading

from vigil.serving.listening import drain

logger = logging.getLogger(__name__)

KEY = "SUPERVISOR_LIFELINE"


def hold() -> str:
    """Opens the supervisor's end; the value of `KEY` in the environment of its workers."""
    theirs, _ = os.pipe()  # the other end is held as long as this process lives
    os.set_inheritable(theirs, True)
    return str(theirs)


def watch(given: str, port_fd: int) -> None:
    """Lets this worker stop, as at SIGTERM, once its supervisor is dead.

    Args:
        given: the value of `KEY`.
        port_fd: the socket it listens on.
    """
    lifeline = int(given)
    os.set_inheritable(lifeline, False)
    listening = socket.socket(fileno=os.dup(port_fd))

    def wait() -> None:
        os.read(lifeline, 1)
        logger.warning("the supervisor is gone: this worker stops")
        asyncio.run(drain([listening]))
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="vigil-lifeline", daemon=True).start()
