"""How many threads scikit-learn's own loops may use."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from threadpoolctl import threadpool_limits


def one_thread() -> AbstractContextManager[Any]:
    """Within it, OpenMP uses one thread.

    OpenMP threads wait by spinning: on two cores that other work uses as well, two of them were
    forty times slower than one.
    """
    limits: AbstractContextManager[Any] = threadpool_limits(1, user_api="openmp")
    return limits
