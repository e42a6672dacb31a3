"""`python -m ggufpy`: the same program as the `ggufpy` script."""

from __future__ import annotations

from ggufpy.cli import program

if __name__ == "__main__":
    program()
