"""`python -m vigil.features.ahead`: makes the machine code of `compiled/` ahead of time; see `compiled/machine.py`.

It takes numba, setuptools and a C++ compiler. NUMBA_CPU_NAME says for which processor; `generic`: any of the platform.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vigil import domains
from vigil.errors import VigilError
from vigil.features.compiled import machine
from vigil.features.shared.cache import Loaded


class NotCompiled(VigilError):
    """A function without machine code that would do for all calls of it."""


def signatures() -> dict[str, Any]:
    """Of each function that Python calls, the types that it is called with.

    Raises:
        NotCompiled: where a function was called with other than one set of types, or not at all.
    """
    for domain in domains.select(""):
        loaded = Loaded(domain, b"")
        loaded.warm()
        loaded.store.compacted()
    found = {name: function.nopython_signatures for name, function in machine.called.items()}
    for name, kinds in found.items():
        if len(kinds) != 1:
            raise NotCompiled(f"{name}: got calls with {len(kinds)} sets of types, wanted 1 when all is warmed")
    return {name: kind for name, [kind] in found.items()}


def make(folder: Path) -> None:
    """Writes the extension module `machine_code` of all functions into a folder."""
    from numba import config
    from numba.core.compiler import Flags
    from numba.pycc import CC, compiler

    def flags() -> Flags:
        """As `machine.py` has them, where CC has no parameter."""
        chosen = Flags()
        chosen.release_gil, chosen.error_model = True, "numpy"
        return chosen

    compiler.Flags = flags
    extension = CC("machine_code", machine.__name__)
    extension.use_nrt, extension.target_cpu, extension.output_dir = False, config.CPU_NAME or "host", str(folder)
    for name, signature in signatures().items():
        extension.export(name, signature)(machine.called[name].py_func)
    extension.compile()


if __name__ == "__main__":
    make(Path(machine.__file__).parent)
