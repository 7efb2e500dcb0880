"""`python -m vigil.cli`: as the command `vigil`."""

from __future__ import annotations

from vigil.cli import app

if __name__ == "__main__":
    app()
