"""How functions become machine code: numba compiles them when they are first called, or did when the image was made.

The image holds no compiler, as LLVM would be a third of it. It holds `vigil.features.machine_code`, an extension module
with each function that Python calls, which `ahead.py` makes of the same source.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]
# Those that Python calls, by name; a name with an underscore is for the others' use.
called: dict[str, Any] = {}

try:
    from numba import njit
    from numba.extending import intrinsic as intrinsic  # for others
except ModuleNotFoundError:
    _code = importlib.import_module("vigil.features.machine_code")

    def intrinsic(function: Function) -> Function:
        """As numba's: what only compiled code uses."""
        return function

    def compiled(function: Function) -> Function:
        """The machine code of a function; of one that only compiled code uses, nothing is needed."""
        found: Function = getattr(_code, function.__name__, function)
        return found

else:
    # Without numba's own memory management: nothing here makes an array, and counting references to those that are
    # handed on took half of the time.
    _compile = njit(cache=True, nogil=True, error_model="numpy", _nrt=False)

    def compiled(function: Function) -> Function:
        """A function that numba compiles, for the types that it is first called with; names do for all modules."""
        made: Function = _compile(function)
        if not function.__name__.startswith("_"):
            called[function.__name__] = made
        return made
