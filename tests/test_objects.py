"""Object files: what may be linked, and that nothing else is; all levels in one process, in any order."""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from ggufpy.jit.compile import allowed_symbols, object_code, target_machine
from ggufpy.jit.objects import ObjectError, check_object
from ggufpy.jit.spec import kernel
from ggufpy.simd import isa
from ggufpy.simd.emulated import STATE_SYMBOL
from ggufpy.simd.isa import Level

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()

LEVELS = (*isa.available(), isa.EMULATED)
PORTABLE = isa.LEVELS[-1]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF files")


def compiled(text: str, level: Level = PORTABLE) -> bytes:
    """An object file of LLVM's assembly."""
    machine = target_machine(level)
    return bytes(machine.emit_object(llvm.parse_assembly(f'target triple = "{machine.triple}"\n{text}')))


GOOD = """
declare ptr @memcpy(ptr, ptr, i64)
@table = internal constant [4 x i32] [i32 1, i32 2, i32 3, i32 5]
define i32 @f(i64 %i, ptr %x) {
  %at = getelementptr [4 x i32], ptr @table, i64 0, i64 %i
  %y = load i32, ptr %at
  call ptr @memcpy(ptr %x, ptr @table, i64 16)
  ret i32 %y
}"""


def test_code_with_constants_and_known_calls_passes() -> None:
    check_object(compiled(GOOD))


@linux
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@x = global i32 1\ndefine i32 @f() {\n  %y = load i32, ptr @x\n  ret i32 %y\n}", r"section \.data"),
        ("@x = global [64 x i8] zeroinitializer\ndefine ptr @f() {\n  ret ptr @x\n}", r"section \.bss"),
        ("@x = thread_local global i32 0\ndefine ptr @f() {\n  ret ptr @x\n}", r"section \.tbss"),
        ("@x = constant ptr @f\ndefine ptr @f() {\n  ret ptr @x\n}", r"section \.data"),  # an address to fill in
        ("declare i32 @system(ptr)\ndefine void @f() {\n  call i32 @system(ptr null)\n  ret void\n}", "symbol system"),
        ("@x = external constant i32\ndefine i32 @f() {\n  %y = load i32, ptr @x\n  ret i32 %y\n}", "relocation"),
    ],
)
def test_anything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(ObjectError, match=message):
        check_object(compiled(text))


@linux
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="code for x86")
def test_code_of_the_large_model_is_refused() -> None:
    """Its constants are found by way of a global offset table, which is how they were read wrongly once."""
    machine = llvm.Target.from_default_triple().create_target_machine(reloc="pic", codemodel="large")
    with pytest.raises(ObjectError, match="section"):
        check_object(bytes(machine.emit_object(llvm.parse_assembly(GOOD))))


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_only_emulated_tiles_call_for_their_state(level: Level) -> None:
    assert (STATE_SYMBOL in allowed_symbols(level)) == (level == isa.EMULATED)
    check_object(object_code(kernel("gate", kind="silu"), level), allowed_symbols(level))


@linux
def test_a_distance_that_does_not_fit_is_an_error() -> None:
    """The linker must not cut an address short: here a constant is 2⁴⁰ bytes away."""
    text = "@far = external dso_local constant i32\ndefine i32 @f() {\n  %y = load i32, ptr @far\n  ret i32 %y\n}"
    jit = llvm.create_lljit_compiler(use_jit_link=True)
    builder = llvm.JITLibraryBuilder().add_object_img(compiled(text)).import_symbol("far", 1 << 40)
    with pytest.raises(RuntimeError):
        builder.export_symbol("f").link(jit, "far away")


CHILD = """
import json, os, sys
from dataclasses import replace
import numpy as np
from ggufpy import quants
from ggufpy.models.ops import Heads
from ggufpy.runtime.trial import common, error_of
names, found = json.loads(sys.argv[1]), {}
rows = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
for name in names:
    trial = replace(common(name, ["Q4_0", "Q4_K", "Q6_K", "F16"], Heads(4, 2, 64, 64)), cache_types=("f16", "q8_0"))
    os.environ["GGUFPY_ISA"] = name
    blocks = [quants.quantize(rows, kind) for kind in ("Q4_0", "Q4_K")]
    sums = [int(b.sum(dtype=np.uint64)) for b in blocks]
    found.setdefault(name, []).append([error_of(trial), sums])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_all_levels_in_one_process_in_any_order(tmp_path: Path) -> None:
    """From an empty cache on; every level's kernels are run again when those of all others have been loaded."""
    names = [level.name for level in LEVELS]
    for seed in range(3):
        order = random.Random(seed).sample(names, len(names))
        command = [sys.executable, "-X", "faulthandler", "-c", CHILD, json.dumps([*order, *order])]
        env = {**os.environ, "GGUFPY_CACHE": str(tmp_path)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (order, done.stderr[-2000:])
        found = json.loads(done.stdout.splitlines()[-1])
        assert sorted(found) == sorted(names)
        assert len({str(sums) for runs in found.values() for _, sums in runs}) == 1, order
        for name, runs in found.items():
            assert runs[0] == runs[1], (name, order)
            assert runs[0][0] < 0.05, (name, order)
