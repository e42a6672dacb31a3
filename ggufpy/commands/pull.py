"""`ggufpy pull`: fetches a model and says where it is."""

from __future__ import annotations

import argparse
import json
import time

from ggufpy.hub import DEFAULT_MODEL, MODELS, pull

HELP = "fetch a model and print where it is"
DESCRIPTION = f"""Fetch a model into the cache folder, verify it, and print its path; what is there is kept.

NAME is a model that ggufpy knows ({", ".join(MODELS)}) or hf:owner/repo[:file-or-quant]
(pip install 'ggufpy[hub]'). GGUFPY_CACHE names another cache folder. JSON: name, path, bytes, seconds.

examples:
  ggufpy pull smollm2
  ggufpy pull hf:owner/model-GGUF:Q4_K_M
  ggufpy inspect "$(ggufpy pull smollm2)\""""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `pull`."""
    parser.add_argument(
        "name", nargs="?", default=DEFAULT_MODEL, metavar="NAME", help="what to fetch (default: smollm2)"
    )
    parser.add_argument("--force", action="store_true", help="fetch it again even when it is there")


def run(args: argparse.Namespace) -> int:
    """Fetch and print the path."""
    from ggufpy.support.progress import Progress

    started = time.perf_counter()
    with Progress() as progress:
        path = pull(args.name, progress, args.force)
    if args.json:
        seconds = time.perf_counter() - started
        print(json.dumps({"name": args.name, "path": str(path), "bytes": path.stat().st_size, "seconds": seconds}))
    else:
        print(path)
    return 0
