"""One module a verb of the command line, found by its file name (`convert_hf` is `convert-hf`).

A command module has `HELP` (one line), `DESCRIPTION` (what it does, with examples), `add_arguments(parser)`
and `run(args) -> int` (the exit status). `-v/--verbose` and `--json` are there for every command as
`args.verbose` and `args.json`. Heavy imports belong inside `run`: `ggufpy --help` imports every command.
Modules whose name begins with an underscore are no commands.
"""

from __future__ import annotations

from ggufpy.errors import GGUFError


class UsageError(GGUFError):
    """Arguments that do not go together: exit status 2."""
