"""The registry of block types, their layouts and panels, the messages for wrong input, and spec/quants.md."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.quants import BlockType, FloatPanel, IntPanel

gguf = pytest.importorskip("gguf", reason="the oracle, PyPI's gguf, is not installed")
ROOT = Path(__file__).resolve().parent.parent
NAMES = quants.names()
REQUIRED = """
F32 F16 BF16 F64 I8 I16 I32 I64 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ1_S
IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL IQ4_XS TQ1_0 TQ2_0 MXFP4 NVFP4 Q1_0 Q2_0
"""


def test_every_required_type_is_there():
    assert set(REQUIRED.split()) == set(NAMES)
    assert [quants.get(name).id for name in NAMES] == sorted(quants.get(name).id for name in NAMES)


def test_every_module_of_types_is_a_type():
    modules = {module.name for module in pkgutil.iter_modules(quants.types.__path__)}
    assert len(modules) > 30
    for module in modules:
        block = importlib.import_module(f"ggufpy.quants.types.{module}").BLOCK
        assert isinstance(block, BlockType)
        assert block.name.lower() == module
        assert quants.get(block.name) is block
        assert quants.get(module) is block
        assert quants.by_id(block.id) is block
        assert quants.NUMBERS[block.id] == module
        assert type(block).__doc__


@pytest.mark.parametrize("name", NAMES)
def test_layout_adds_up(name):
    block = quants.get(name)
    assert sum(field.nbytes for field in block.layout) == block.nbytes == block.record.itemsize
    assert len({field.name for field in block.layout}) == len(block.layout)
    offset = 0
    for field in block.layout:
        assert block.record.fields[field.name][1] == offset
        assert field.note
        offset += field.nbytes


@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_ids_are_those_of_gguf(name):
    block = quants.get(name)
    if name == "Q2_0":
        assert (block.id, block.weights, block.nbytes) == (42, 64, 18)  # newer than the oracle
        return
    kind = gguf.GGMLQuantizationType[name]
    assert block.id == kind
    # gguf's table still has the float32 members that Q8_1 blocks had before 2023: ggml's own size is 36.
    size = (32, 36) if name == "Q8_1" else gguf.GGML_QUANT_SIZES[kind]
    assert (block.weights, block.nbytes) == size


@pytest.mark.parametrize("name", NAMES)
def test_panels_are_those_that_kernels_have(name):
    panel = quants.get(name).panel
    if isinstance(panel, FloatPanel):
        assert panel.dtype in ("f16", "bf16", "f32")
        return
    assert isinstance(panel, IntPanel)
    assert panel.bits in (2, 4, 5, 6, 8)
    assert panel.group in (16, 32)
    assert 0 <= panel.offset < 2**panel.bits
    assert not (panel.has_min and panel.offset)


def test_there_are_few_panels():
    assert len({quants.get(name).panel for name in NAMES}) <= 13


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Q4_Z", "did you mean Q4_"),
        ("q9", "unknown tensor type 'q9'"),
        ("base", "unknown tensor type 'base'"),
        ("../x", "unknown tensor type"),
        ("", "known types: F32"),
        ("x" * 5000, "unknown tensor type"),
        (12, "named by a string"),
        (None, "named by a string"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(GGUFError, match=message) as error:
        quants.get(name)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("number", [4, 5, 31, 32, 33, 36, 37, 38])
def test_removed_ids(number):
    with pytest.raises(GGUFError, match=f"tensor type {number} .* was removed"):
        quants.by_id(number)


@pytest.mark.parametrize("number", [-1, 43, 100, 2**32 - 1])
def test_unknown_ids(number):
    with pytest.raises(GGUFError, match=f"tensor type {number} is not known"):
        quants.by_id(number)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (np.zeros(19, np.uint8), "19 bytes a row are not whole Q4_0 blocks of 18"),
        (np.zeros((2, 17), np.uint8), "17 bytes a row"),
        (np.zeros(18, np.int8), "must be a uint8 array"),
        (np.zeros(18, np.float32), "must be a uint8 array"),
        (np.array(3, np.uint8), "must be a uint8 array"),
    ],
)
def test_wrong_blocks(blocks, message):
    with pytest.raises(GGUFError, match=message):
        quants.dequantize(blocks, "Q4_0")


def test_float_panels_have_no_fields():
    with pytest.raises(GGUFError, match="F16 has no integer panel"):
        quants.get("F16").fields(np.zeros((1, 8), np.uint8))


@pytest.mark.parametrize("name", NAMES)
def test_byteswap_turns_the_members_around(name):
    block = quants.get(name)
    blocks = np.random.default_rng(1).integers(0, 256, (2, 3 * block.nbytes), dtype=np.uint8)
    before = blocks.copy()
    swapped = block.byteswap(blocks)
    assert np.array_equal(blocks, before)
    assert np.array_equal(block.byteswap(swapped), blocks)
    big = np.dtype([(f.name, block.record[f.name].newbyteorder(">")) for f in block.layout])
    for field in block.layout:  # compared as bytes: random floats hold NaNs
        here = block.records(blocks)[field.name]
        there = swapped.view(big)[field.name].astype(block.record[field.name].base)
        assert np.array_equal(np.ascontiguousarray(here).view(np.uint8), np.ascontiguousarray(there).view(np.uint8))


def test_spec_is_generated():
    made = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "make_quants_spec.py"), "-"],
        capture_output=True, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
    ).stdout.decode("utf-8")  # fmt: skip
    written = (ROOT / "spec" / "quants.md").read_text(encoding="utf-8")
    assert made.replace("\r\n", "\n") == written, "run tools/make_quants_spec.py"


def test_reading_needs_no_gguf():
    code = "import sys, ggufpy.quants as q; q.names(); assert not {'gguf', 'numba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
