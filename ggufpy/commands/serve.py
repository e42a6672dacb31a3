"""`ggufpy serve`: models over HTTP, for the clients of OpenAI, Anthropic, ollama and llama-server."""

from __future__ import annotations

import argparse
from pathlib import Path

from ggufpy.commands import UsageError
from ggufpy.commands._options import (
    MODEL_HELP,
    add_cache_arguments,
    add_engine_arguments,
    add_option,
    add_speculation_arguments,
    check_speculation,
    load_options,
)
from ggufpy.errors import GGUFError
from ggufpy.hub import DEFAULT_MODEL

PLACES = 4  # texts at a time where nobody says how many: those of a few people, or of an agent and its helpers
HELP = "answer OpenAI, Anthropic and ollama clients over HTTP, with a page to chat"
DESCRIPTION = """Serve models over HTTP: the interfaces of OpenAI, Anthropic, ollama and llama-server, and a page to
chat at the server's address.

examples:
  ggufpy serve                                       the default model at http://127.0.0.1:8080
  ggufpy serve model.gguf -np 8 -c 8192              eight texts at once, 8,192 tokens each
  ggufpy serve --models-dir models                   every .gguf file below a folder, loaded when it is asked for
  ggufpy serve a.gguf b.gguf --alias gpt-4o=a.gguf   two models, one of them under a second name
  ggufpy serve --host 0.0.0.0 --api-key-file keys    for others, who bring a key"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `serve`."""
    from ggufpy.generate.loading import LoadOptions
    from ggufpy.server.settings import ServerOptions
    from ggufpy.support.options import declared

    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help=f"{MODEL_HELP}; the first answers requests that name none (default: {DEFAULT_MODEL}, unless --models-dir "
        "or --alias says what to serve)",
    )
    server = declared(ServerOptions)
    for name in ("host", "port"):
        add_option(parser, server[name])
    group = parser.add_argument_group("models", "clients name them by file name without .gguf, or as given here")
    group.add_argument(
        "-a",
        "--alias",
        action="append",
        default=[],
        type=alias,
        metavar="NAME=MODEL",
        help="another name for a MODEL, or the name of one that is given only here; again for more",
    )
    for name in ("models_dir", "keep_alive", "max_models", "max_memory", "load_wait"):
        add_option(group, server[name])
    group.add_argument("--allow-pull", action="store_true", help=server["allow_pull"].full_help)
    access = parser.add_argument_group("access", "on a loopback address anybody on this machine may ask")
    access.add_argument(
        "--api-key", action="append", default=[], metavar="KEY", help="a key that clients must bring; again for more"
    )
    access.add_argument(
        "--api-key-file", action="append", default=[], metavar="FILE", help="a file with such keys, one a line"
    )
    access.add_argument("--without-key", action="store_true", help="listen for others without asking for a key")
    for name in ("cors", "allowed_hosts"):
        add_option(access, server[name])
    load = declared(LoadOptions)
    add_option(
        parser,
        load["n_ctx"]._replace(
            help="context in tokens, for each text", default_text="the model's, or what half of --max-memory holds"
        ),
    )
    add_option(parser, load["n_parallel"]._replace(default=PLACES))
    add_option(parser, load["prompt_ms"])
    for name in ("queue", "timeout", "body_limit", "slots_dir"):
        add_option(parser, server[name])
    add_engine_arguments(parser)
    add_cache_arguments(parser)
    add_speculation_arguments(parser)


def alias(text: str) -> tuple[str, str]:
    """An argument type: NAME=MODEL."""
    name, equals, model = text.partition("=")
    if not equals or not name or not model:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not NAME=MODEL, such as gpt-4o=model.gguf")
    return name, model


def run(args: argparse.Namespace) -> int:
    """Serve until told to end; returns the exit status."""
    from dataclasses import fields

    from ggufpy.server.settings import ServerOptions

    check_speculation(args)
    try:
        from ggufpy.server.catalogue import Catalogue, given_models
        from ggufpy.server.folder import Folder
        from ggufpy.server.guards import is_loopback
        from ggufpy.server.loader import Files
        from ggufpy.server.memory import allowed
        from ggufpy.server.pool import Pool
        from ggufpy.server.run import serve
        from ggufpy.server.service import Service
    except ImportError as error:
        raise UsageError(f"serving needs more packages ({error.name}): pip install 'ggufpy[server]'") from None
    names = {field.name for field in fields(ServerOptions)}
    options = ServerOptions(**{n: v for n, v in vars(args).items() if n in names and v is not None})
    keys = _keys(args)
    if not (keys or args.without_key or is_loopback(options.host)):
        raise UsageError(
            f"--host {options.host} is open to others: give --api-key or --api-key-file; --without-key lets all ask"
        )
    if options.slots_dir is not None and not Path(options.slots_dir).is_dir():
        raise GGUFError(f"--slots-dir {options.slots_dir} is no folder: make it first")
    models = args.models or ([] if args.alias or args.models_dir else [DEFAULT_MODEL])
    folder = None if options.models_dir is None else Folder(options.models_dir)
    catalogue = Catalogue(given_models(models, args.alias), folder, options.allow_pull)
    if args.n_parallel is None:
        args.n_parallel = PLACES
    loader = Files(catalogue, load_options(args), allowed(options.max_memory))

    def start() -> Service:
        return Service(Pool(catalogue, loader, options), options, keys)

    serve(start, options)
    return 0


def _keys(args: argparse.Namespace) -> list[str]:
    """The keys of --api-key and of --api-key-file, a line each; "#" begins a comment."""
    keys = list(args.api_key)
    for name in args.api_key_file:
        try:
            lines = Path(name).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise GGUFError(f"cannot read the keys of {name}: {error}") from None
        found = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
        if not found:
            raise GGUFError(f"{name} has no key: one a line is wanted")
        keys += found
    if any(not key.strip() for key in keys):
        raise UsageError("--api-key is empty: any text that others cannot guess is wanted")
    return keys
