"""Holds our converter to llama.cpp's: the same checkpoint through both, metadata and tensors compared.

    python tools/compare_converter.py --llama-cpp DIR CHECKPOINT...

DIR is a checkout of llama.cpp; its converter needs PyTorch. Both write F32. Tensors must have the same names, shapes
and bits; keys of the architecture the same values, and those of the vocabulary, where a folder has a tokenizer. What
one has and the other has not is listed. Ends with one line of figures, status 1 where tensors differ or keys of theirs
are missing or of another value.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ggufpy import format as gguf
from ggufpy.convert import ConvertOptions, convert
from ggufpy.errors import GGUFError

TOLERANCE = 1e-6  # of float values in metadata, and of what both reckon from them
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json",
              "vocab.json", "vocab.txt")  # fmt: skip
# llama.cpp's converter without its step that reads the tokenizer. Arguments: the checkout, then the converter's own.
WITHOUT_VOCABULARY = """
import runpy
import sys

sys.path.insert(0, sys.argv[1])
from conversion.base import TextModel

prepare = TextModel.prepare_metadata


def without_vocabulary(self, vocab_only):
    self.set_vocab = lambda: None
    prepare(self, vocab_only)


TextModel.prepare_metadata = without_vocabulary
sys.argv = [sys.argv[1] + "/convert_hf_to_gguf.py", *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def has_tokenizer(checkpoint: Path) -> bool:
    return any((checkpoint / name).is_file() for name in TOKENIZERS)


def counted(checkpoint: Path, folder: Path) -> Path:
    """`folder`, made with links to the files of a checkpoint and a tokenizer.json of as many tokens as the embedding
    has rows, for models that llama.cpp cuts to these. What they are, nobody looks at."""
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).symlink_to(path.resolve())
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    rows = {**config, **config.get("text_config", {})}.get("vocab_size", 0)
    model = {"type": "BPE", "vocab": {f"t{i}": i for i in range(rows)}, "merges": []}
    described = {"version": "1.0", "added_tokens": [], "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    return folder


def theirs(llama_cpp: Path, checkpoint: Path, target: Path) -> None:
    """llama.cpp's file. Raises RuntimeError with the end of what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(llama_cpp / "gguf-py")}
    program = [str(llama_cpp / "convert_hf_to_gguf.py")]
    if not has_tokenizer(checkpoint):
        program = ["-c", WITHOUT_VOCABULARY, str(llama_cpp)]
        checkpoint = counted(checkpoint, target.parent / checkpoint.resolve().name)
    command = [sys.executable, *program, str(checkpoint), "--outfile", str(target), "--outtype", "f32"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])


def same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= TOLERANCE * max(abs(a), abs(b))
    return bool(a == b)


def key_differences(ours: Any, other: Any, prefix: str) -> Iterator[str]:
    """Keys under the architecture's prefix, and those of the vocabulary."""
    for key in other.metadata:
        if not key.startswith((prefix, "tokenizer.")):
            continue
        if key not in ours.metadata:
            yield f"key {key} = {str(other.metadata[key])[:60]} is missing"
        elif not same(ours.metadata[key], other.metadata[key]):
            yield f"key {key} is {str(ours.metadata[key])[:60]}, theirs {str(other.metadata[key])[:60]}"


def same_numbers(name: str, a: Any, b: Any) -> bool:
    """Bit for bit, but for factors of positions, which llama.cpp reckons in float32 and we do in float64."""
    return np.allclose(a, b, rtol=TOLERANCE, atol=0) if name.startswith("rope_") else np.array_equal(a, b)


def tensor_differences(ours: Any, other: Any) -> Iterator[str]:
    for name, tensor in other.tensors.items():
        if name not in ours.tensors:
            yield f"tensor {name} {tensor.shape} is missing"
        elif tensor.shape != ours.tensors[name].shape:
            yield f"tensor {name} is {ours.tensors[name].shape}, theirs {tensor.shape}"
        elif not same_numbers(name, tensor.to_numpy(), ours.tensors[name].to_numpy()):
            yield f"tensor {name} has other numbers"
    yield from (f"tensor {name} is ours alone" for name in ours.tensors if name not in other.tensors)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp", type=Path, required=True, metavar="DIR")
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    args = parser.parse_args()
    wrong = refused = 0
    for checkpoint in args.checkpoints:
        with tempfile.TemporaryDirectory() as folder:
            mine, other = Path(folder, "ours.gguf"), Path(folder, "theirs.gguf")
            try:
                convert(checkpoint, mine, ConvertOptions("F32", no_vocab=not has_tokenizer(checkpoint)))
                theirs(args.llama_cpp, checkpoint, other)
            except GGUFError as e:
                print(f"{checkpoint}: ours refuses it: {e}")
                wrong += 1
                continue
            except RuntimeError as e:
                print(f"{checkpoint}: theirs refuses it: {e}")
                refused += 1
                continue
            with gguf.open(mine) as a, gguf.open(other) as b:
                prefix = f"{b.metadata['general.architecture']}."
                lines = [*key_differences(a, b, prefix), *tensor_differences(a, b)]
                extra = [key for key in a.metadata if key.startswith(prefix) and key not in b.metadata]
            print(f"{checkpoint}: {len(lines)} differences; keys of ours alone: {extra}")
            for line in lines:
                print(f"  {line}")
            wrong += bool(lines)
    count = len(args.checkpoints)
    print(f"{count - wrong - refused} of {count} the same, {wrong} differ, {refused} refused by llama.cpp")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
