"""How the interpreter is set for a stream, before anything large is imported."""

from __future__ import annotations

import gc
import sys


def tune() -> None:
    """Lets the cyclic garbage collector look seldom: a batch makes 50,000 objects, and starting up a million, none of
    them in a cycle.

    And threads take turns sooner: the one that commits commonly waits for the broker, and then for the interpreter.
    """
    gc.set_threshold(200_000, 50, 1000)
    sys.setswitchinterval(0.0005)
