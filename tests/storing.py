"""What tests of storage formats share: tensors of any dtype, values of small floats, packing, checks of rows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest

from ggufpy import format as gguf
from ggufpy.convert import ConvertOptions, convert, storage
from ggufpy.convert.safetensors import Stored
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Rows, decoded, rows_of

Tensors = dict[str, tuple[str, Any]]  # dtype of safetensors and the numbers, or their bits
CONFIG = {**checkpoints.CONFIG, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1, "vocab_size": 40}
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def small_float(code: int, exponents: int, mantissas: int) -> float:
    """What a byte stands for, from the definition of such floats; those that are not finite are NaN."""
    sign = -1.0 if code >> (exponents + mantissas) & 1 else 1.0
    exponent, mantissa = code >> mantissas & ((1 << exponents) - 1), code & ((1 << mantissas) - 1)
    bias = (1 << (exponents - 1)) - 1
    if (mantissas == 3 and code & 0x7F == 0x7F) or (mantissas == 2 and exponent == 31):
        return float("nan")
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - mantissas)
    return sign * (2**mantissas + mantissa) * 2.0 ** (exponent - bias - mantissas)


E4M3 = np.array([small_float(code, 4, 3) for code in range(256)], np.float32)
E5M2 = np.array([small_float(code, 5, 2) for code in range(256)], np.float32)


def bf16(x: Any) -> Any:
    """Bits of bfloat16, rounded to nearest even."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def of_bf16(bits: Any) -> Any:
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def words(codes: Any, bits: int) -> Any:
    """Codes (..., n) one after the other from the lowest bit of 32-bit words on, (..., n · bits / 32) rounded up."""
    flat = np.asarray(codes).reshape(-1, np.shape(codes)[-1])
    out = np.zeros((len(flat), -(-flat.shape[1] * bits // 32)), np.uint32)
    for row, values in enumerate(flat):
        number = sum(int(value) << bits * i for i, value in enumerate(values))
        for i in range(out.shape[1]):
            out[row, i] = number >> 32 * i & 0xFFFFFFFF
    return out.reshape(*np.shape(codes)[:-1], out.shape[1])


def pairs(codes: Any) -> Any:
    """Codes of 4 bits, neighbours in a byte."""
    return (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8)


def stored(tensors: Tensors) -> dict[str, Stored]:
    """Tensors as an open checkpoint has them."""
    return {
        name: Stored(name, dtype, np.shape(values), np.ascontiguousarray(values).tobytes())
        for name, (dtype, values) in tensors.items()
    }


def decode(config: Mapping[str, Any], tensors: Tensors) -> tuple[str, Mapping[str, Rows]]:
    """The name of the format that claims a checkpoint, and what it makes of it."""
    return storage.logical(config, stored(tensors))


def same(rows: Rows, wanted: Any, kind: str | None, exact: bool = True) -> float:
    """Rows are `wanted`, also in pieces and on threads, and have blocks of `kind`, which are the same numbers if
    `exact`. Returns how far these are from `wanted`, over its largest number."""
    assert rows.shape == wanted.shape
    assert rows.quantised
    count = rows_of(rows.shape)
    flat = wanted.reshape(count, -1)
    np.testing.assert_array_equal(rows.floats(0, count), flat)
    parts = list(itertools.pairwise(sorted({0, count // 3, count // 2 + 1, count})))
    with ThreadPoolExecutor(3) as pool:
        for (start, stop), some in zip(parts, pool.map(lambda at: rows.floats(*at), parts), strict=True):
            np.testing.assert_array_equal(some, flat[start:stop])
    blocks = rows.exact if exact else rows.near
    if not exact:
        assert rows.exact is None
    if kind is None:
        assert blocks is None
        return 0.0
    assert blocks is not None
    assert (blocks.type, blocks.shape, blocks.quantised) == (kind, wanted.shape, True)
    whole = decoded(blocks.rows(0, count), kind)
    if exact:
        np.testing.assert_array_equal(whole, flat)
    np.testing.assert_array_equal(decoded(blocks.rows(1, count), kind), whole[1:])
    return float(np.abs(whole - flat).max() / np.abs(flat).max())


def folder(path: Path, tensors: Tensors, config: Mapping[str, Any]) -> Path:
    """A checkpoint's folder."""
    path.mkdir(parents=True, exist_ok=True)
    header, data, at = {}, [], 0
    for name, (dtype, values) in tensors.items():
        raw = np.ascontiguousarray(values).tobytes()
        header[name] = {"dtype": dtype, "shape": list(np.shape(values)), "data_offsets": [at, at + len(raw)]}
        data.append(raw)
        at += len(raw)
    (path / "model.safetensors").write_bytes(checkpoints.raw_safetensors(header, b"".join(data)))
    (path / "config.json").write_text(json.dumps(dict(config)))
    return path


Encoder = Callable[[str, Any], tuple[Tensors, Any]]


def llama(encode: Encoder, config: Mapping[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """A tiny llama whose layers' matrices are stored by `encode`, which returns their tensors and what they mean."""
    made: Tensors = {}
    meant = {}
    for name, values in checkpoints.weights({**CONFIG, **config}).items():
        if ".layers." in name and values.ndim == 2:
            tensors, meant[name] = encode(name, values)
            made |= tensors
        else:
            made[name], meant[name] = ("BF16", bf16(values)), of_bf16(bf16(values))
    return made, meant


def end_to_end(tmp_path: Path, encode: Encoder, config: Mapping[str, Any], kind: str, limit: float = 0.0) -> list[str]:
    """Converts such a llama: its matrices become `kind`, equal where `limit` is 0, and keeping them is refused where
    it is not. Returns notes."""
    tensors, meant = llama(encode, config)
    path = folder(tmp_path / "hf", tensors, {**CONFIG, **config})
    report = convert(path, tmp_path / "m.gguf", ConvertOptions(no_vocab=True))
    compare(tmp_path / "m.gguf", meant, kind, limit)
    strict = ConvertOptions(no_vocab=True, keep=True)
    if limit:
        with pytest.raises(GGUFError, match="cannot be kept as it is"):
            convert(path, tmp_path / "kept.gguf", strict)
    else:
        convert(path, tmp_path / "kept.gguf", strict)
        compare(tmp_path / "kept.gguf", meant, kind, limit)
        assert any("kept without loss" in note and kind in note for note in report.notes)
    convert(path, tmp_path / "plain.gguf", ConvertOptions("F32", no_vocab=True))
    compare(tmp_path / "plain.gguf", meant, "F32", 0.0)
    return list(report.notes)


def compare(path: Path, meant: Mapping[str, Any], kind: str, limit: float) -> None:
    names = {"attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
             "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}  # fmt: skip
    with gguf.open(path) as file:
        for ours, theirs in names.items():
            tensor, wanted = file.tensors[f"blk.0.{ours}.weight"], meant[f"model.layers.0.{theirs}.weight"]
            assert tensor.type == kind, ours
            assert np.abs(tensor.to_numpy() - wanted).max() <= limit * np.abs(wanted).max(), ours
        heads = CONFIG["num_attention_heads"]
        wanted = meant["model.layers.0.self_attn.q_proj.weight"]
        wanted = wanted.reshape(heads, 2, -1, wanted.shape[1]).swapaxes(1, 2).reshape(wanted.shape)
        got = file.tensors["blk.0.attn_q.weight"].to_numpy()
        assert np.abs(got - wanted).max() <= limit * np.abs(wanted).max()


def refused(config: Mapping[str, Any], tensors: Tensors, said: str) -> None:
    """One line that has `said`, before anything is read."""
    with pytest.raises(GGUFError) as error:
        decode(config, tensors)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
