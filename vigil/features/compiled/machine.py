"""How functions become machine code: numba compiles them when they are first called, or did when the image was made.

The image holds no compiler, as LLVM would be a third of it. It holds `vigil.features.compiled.machine_code`, an
extension module with each function that Python calls, which `vigil/features/ahead.py` makes of the same source.

numba's cache on disk notices a change of a function's own file only, not of the functions and constants it uses. So
the cache lies in a folder named by a digest of all that is compiled: a change anywhere is a new folder.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

Function = Callable[..., Any]
# Functions that Python calls, by name.
called: dict[str, Any] = {}
_HERE = Path(__file__).parent
# What decides the machine code: this package, and the numbers of the kinds of features.
SOURCES = (*sorted(_HERE.glob("*.py")), _HERE.parent.parent / "domains" / "windows.py")


def digest() -> str:
    """Sixteen hex digits that change with any source of the machine code."""
    found = hashlib.sha256()
    for path in SOURCES:
        found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def cache_folder(chosen: str) -> str:
    """The folder for numba's cache: in `chosen` (NUMBA_CACHE_DIR), else beside the source, else in the user's cache.

    Returns:
        a folder that can be written, or "" where there is none: then each process compiles anew.
    """
    name = f"vigil-{digest()}"
    users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "numba"
    for parent in (Path(chosen),) if chosen else (_HERE / "__pycache__", users):
        with suppress(OSError):
            folder = parent / name
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK | os.X_OK):
                if parent == _HERE / "__pycache__":
                    _drop_others(folder)
                return str(folder)
    return ""


def _drop_others(folder: Path) -> None:
    """Removes the machine code of earlier sources."""
    for other in folder.parent.glob("vigil-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


try:
    from numba import config, njit
    from numba.extending import intrinsic as intrinsic  # for others
except ModuleNotFoundError:
    _code = importlib.import_module("vigil.features.compiled.machine_code")

    def intrinsic(function: Function) -> Function:
        """As numba's: only compiled code uses it."""
        return function

    def compiled(function: Function) -> Function:
        """Nothing is needed of a function that only compiled code uses."""
        return function

    def entry(function: Function) -> Function:
        """The machine code of a function that Python calls."""
        found: Function = getattr(_code, function.__name__)
        return found

else:
    _chosen = config.CACHE_DIR
    _folder = cache_folder(_chosen)

    def compiled(function: Function) -> Function:
        """A function that numba compiles for the types of its first call."""
        # Without numba's own memory management: nothing here makes an array, and counting references to those that
        # are handed on took half of the time.
        config.CACHE_DIR = _folder  # numba asks for it here
        try:
            made: Function = njit(function, cache=bool(_folder), nogil=True, error_model="numpy", _nrt=False)
        finally:
            config.CACHE_DIR = _chosen
        return made

    def entry(function: Function) -> Function:
        """As `compiled`, for one that Python calls; names do for all modules."""
        made = called[function.__name__] = compiled(function)
        return made
