"""`ggufpy hash`: hashes of tensor data, printed and checked as llama-gguf-hash does."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufpy.commands import UsageError
from ggufpy.commands._options import add_model_argument, find_model

if TYPE_CHECKING:
    from ggufpy.format import GGUFFile
    from ggufpy.format.digest import Digests, Manifest

HELP = "hash the tensors of a file, or check them against a manifest"
DESCRIPTION = """Hash the data of each tensor and of all of them, with sha256 and xxh64 unless others are named.
Metadata are not hashed: an edited file keeps its hashes, and a split set has those of the merged file.
The lines are llama-gguf-hash's: a manifest of one is checked by the other.
JSON: file, bytes, the digests of all data by algorithm, tensors: [{name, digests by algorithm}], and with --check
check: {manifest, ok, matched, mismatched, missing, unlisted} (missing: in the manifest alone; unlisted: in the file
alone). Exit status 1 where the check fails.

examples:
  ggufpy hash model.gguf > model.gguf.manifest
  ggufpy hash model.gguf --check model.gguf.manifest
  ggufpy hash model.gguf --sha256 --no-layers"""

_DEFAULT = ("xxh64", "sha256")
_NAMES = ("xxh64", "xxh3", "sha1", "sha256")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    add_model_argument(parser, "file")
    for name in _NAMES:
        usual = " (default)" if name in _DEFAULT else ""
        parser.add_argument(f"--{name}", action="store_true", help=f"hash with {name}{usual}")
    parser.add_argument("--all", action="store_true", help="hash with all of them")
    parser.add_argument("--no-layers", "--no-layer", action="store_true", help="no hashes by tensor")
    parser.add_argument("-c", "--check", type=Path, metavar="MANIFEST", help="compare with the hashes of a manifest")


@dataclass
class Check:
    """The digests of a file against a manifest, gathered one by one."""

    manifest: Manifest
    matched: int = 0
    mismatched: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)

    def note(self, tensor: str, algorithm: str, digest: str) -> str:
        """What a line says of a digest, in llama-gguf-hash's words."""
        expected = self.manifest.expected.get((algorithm, tensor))
        if expected is None:
            if tensor and tensor not in self.unlisted:
                self.unlisted.append(tensor)
            return "Not Found"
        if expected == digest:
            self.matched += 1
            return "Ok"
        if tensor not in self.mismatched:
            self.mismatched.append(tensor)
        return "Mismatch"

    def ok(self, algorithms: Sequence[str]) -> bool:
        """Whether all data are what the manifest says: by their own hash, or by that of every tensor."""
        whole = any((name, "") in self.manifest.expected for name in algorithms)
        return bool(self.matched and not self.mismatched and not self.manifest.unknown and (whole or not self.unlisted))


def run(args: argparse.Namespace) -> int:
    """Print the digests; 0, or 1 where a check fails. Raises GGUFError for a file or manifest that is no such thing."""
    from ggufpy.commands.inspect import printable
    from ggufpy.format import open as open_gguf
    from ggufpy.format.digest import digests, read_manifest
    from ggufpy.support.progress import Progress

    args.file = find_model(args.file)
    with open_gguf(args.file) as file:
        check = None if args.check is None else Check(read_manifest(args.check, file, printable))
        algorithms = _algorithms(args, check)
        results: list[Digests] = []
        with Progress() as progress:
            for each in digests(file, algorithms, layers=not args.no_layers, progress=progress):
                results.append(each)
                _line(args, each, check)
        if args.json:
            print(json.dumps(_as_json(args, file, results, check, algorithms)))
    if check is None:
        return 0
    good = check.ok(algorithms)
    if not args.json:
        print(f"\n{args.check}: {_verdict(check, good)}")
    return 0 if good else 1


def _algorithms(args: argparse.Namespace, check: Check | None) -> list[str]:
    """Those asked for, else those of the manifest, else the default."""
    asked = [name for name in _NAMES if args.all or getattr(args, name)]
    if check is None:
        return asked or list(_DEFAULT)
    have = check.manifest.algorithms()
    chosen = [name for name in (asked or have) if name in have]
    if not chosen:
        raise UsageError(f"{args.check} has no {' or '.join(asked)} hashes; it has {', '.join(have) or 'none'}")
    return chosen


def _line(args: argparse.Namespace, each: Digests, check: Check | None) -> None:
    from ggufpy.commands.inspect import printable

    name = f"{args.file}:{each.tensor}" if each.tensor else str(args.file)
    for algorithm, digest in each.by.items():
        verdict = "" if check is None else f"  -  {check.note(each.tensor, algorithm, digest)}"
        if not args.json:
            print(f"{algorithm:<8}  {digest}  {printable(name)}{verdict}", flush=True)


def _verdict(check: Check, good: bool) -> str:
    if good:
        return "Success"
    parts = []
    if check.mismatched:
        first = next((name for name in check.mismatched if name), "all data")
        parts.append(f"{len(check.mismatched)} mismatched, the first: {first}")
    if check.manifest.unknown:
        parts.append(f"{len(check.manifest.unknown)} not in the file, the first: {check.manifest.unknown[0]}")
    if check.unlisted:
        parts.append(f"{len(check.unlisted)} not in the manifest, the first: {check.unlisted[0]}")
    return "Failure: " + "; ".join(parts or ["nothing to compare (--no-layers leaves out what it lists)"])


def _as_json(
    args: argparse.Namespace, file: GGUFFile, results: list[Digests], check: Check | None, algorithms: Sequence[str]
) -> dict[str, Any]:
    total = sum(t.nbytes for t in file.tensors.values())
    out: dict[str, Any] = {"file": str(args.file), "bytes": total, **results[-1].by}
    if not args.no_layers:
        out["tensors"] = [{"name": each.tensor, **each.by} for each in results[:-1]]
    if check is not None:
        out["check"] = {
            "manifest": str(args.check),
            "ok": check.ok(algorithms),
            "matched": check.matched,
            "mismatched": check.mismatched,
            "missing": list(check.manifest.unknown),
            "unlisted": check.unlisted,
        }
    return out
