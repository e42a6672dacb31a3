"""`ggufpy serve`: models over HTTP, for the clients of OpenAI, Anthropic, ollama and llama-server."""

from __future__ import annotations

import argparse

from ggufpy.commands import UsageError
from ggufpy.commands._options import (
    add_cache_arguments,
    add_default_model_argument,
    add_engine_arguments,
    add_load_options,
    add_option,
    add_speculation_arguments,
    check_speculation,
    load_options,
)
from ggufpy.support import console

HELP = "answer OpenAI, Anthropic and ollama clients over HTTP, with a page to chat"
DESCRIPTION = """Serve models over HTTP: the interfaces of OpenAI, Anthropic, ollama and llama-server, and a page to
chat at the server's address.

examples:
  ggufpy serve                                       the default model at http://127.0.0.1:8080
  ggufpy serve model.gguf -np 8 -c 8192              eight texts at once, 8,192 tokens each
  ggufpy serve --host 0.0.0.0 --api-key-file keys    for others, who bring a key"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `serve`."""
    from ggufpy.server.settings import ServerOptions
    from ggufpy.support.options import declared

    add_default_model_argument(parser)
    server = declared(ServerOptions)
    for name in ("host", "port"):
        add_option(parser, server[name])
    parser.add_argument("--api-key", action="append", default=[], metavar="KEY", help="a key that clients must bring")
    add_load_options(parser, "n_ctx", "n_parallel")
    for name in ("queue", "timeout", "body_limit", "keep_alive", "max_models"):
        add_option(parser, server[name])
    add_engine_arguments(parser)
    add_cache_arguments(parser)
    add_speculation_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until told to end; returns the exit status."""
    from dataclasses import fields

    from ggufpy.server.settings import ServerOptions

    check_speculation(args)
    try:
        from ggufpy.server.run import serve
    except ImportError as error:
        raise UsageError(f"serving needs more packages ({error.name}): pip install 'ggufpy[server]'") from None
    names = {field.name for field in fields(ServerOptions)}
    options = ServerOptions(**{n: v for n, v in vars(args).items() if n in names and v is not None})
    serve([args.model], load_options(args), options, args.api_key)
    console.note("ggufpy: ended")
    return 0
