"""SIMD levels: which there are, which runs, what each needs, and code for a machine that this one is not."""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import Any

import pytest
from engine import LEVELS

from ggufpy.errors import GGUFError
from ggufpy.simd import isa


def test_portable_is_always_there_and_last() -> None:
    assert [level for level in isa.LEVELS if level in LEVELS] == list(LEVELS)
    assert LEVELS[-1].name == "portable"


def test_the_best_level_runs_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "  "):
        monkeypatch.setenv("GGUFPY_ISA", value)
        assert isa.current() == LEVELS[0]
    monkeypatch.delenv("GGUFPY_ISA")
    assert isa.current() == LEVELS[0]
    for level in LEVELS:
        monkeypatch.setenv("GGUFPY_ISA", f" {level.name.upper()} ")
        assert isa.current() == level


@pytest.mark.parametrize("name", ["sse9", "avx", "portable,avx2", "0", "amx!"])
def test_an_unknown_level_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUFPY_ISA", name)
    with pytest.raises(GGUFError, match=r"no such level; choose one of .*portable") as error:
        isa.current()
    assert "\n" not in str(error.value)


def test_a_level_that_the_cpu_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    unusable = {note.split()[0] for note in isa.notes()}  # there, but refused by the system
    missing = [level.name for level in isa.LEVELS if level not in LEVELS and level.name not in unusable]
    assert missing, "no machine has both x86 and Arm levels"
    for name in missing:
        monkeypatch.setenv("GGUFPY_ISA", name)
        with pytest.raises(GGUFError, match=f"level {name} .*GGUFPY_ISA.*: this CPU does not have it; choose one of"):
            isa.current()


def test_a_level_needs_the_machine_and_every_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert [level.name for level in isa.available()] == ["portable"]
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(isa, "host_features", lambda: frozenset({"neon", "dotprod", "avx2", "f16c", "fma"}))
    assert [level.name for level in isa.available()] == ["neon", "portable"]
    monkeypatch.setattr(isa, "host_features", lambda: frozenset({"neon"}))
    assert [level.name for level in isa.available()] == ["portable"]


AMX = isa.LEVELS[0]


@pytest.fixture
def cpu_with_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(isa, "host_features", lambda: frozenset(AMX.needs) | {"avx2", "avx512bf16"})


def test_tiles_are_asked_for_before_they_are_used(cpu_with_tiles: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isa, "tiles_refused", lambda: "")
    assert isa.available()[0] == AMX
    assert isa.has_tiles(AMX)
    assert isa.has_bf16_dot(AMX)
    assert isa.notes() == []


def test_refused_tiles_leave_the_next_level(cpu_with_tiles: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isa, "tiles_refused", lambda: "the system refused: Invalid argument")
    monkeypatch.delenv("GGUFPY_ISA", raising=False)
    assert isa.current().name == "avx512"
    assert isa.notes() == ["amx is not used: the system refused: Invalid argument"]
    monkeypatch.setenv("GGUFPY_ISA", "amx")
    with pytest.raises(GGUFError, match=r"level amx .*: the system refused: Invalid argument; choose one of avx512"):
        isa.current()


def test_a_cpu_without_tiles_needs_no_note() -> None:
    if not isa.host_features().issuperset(AMX.needs):
        assert isa.notes() == []


def test_the_system_is_asked_as_linux_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        answer, asked = 0, ()

        def syscall(self, *numbers: Any) -> int:
            self.asked = tuple(number.value for number in numbers)
            return self.answer

    libc = Libc()
    monkeypatch.setattr(isa.ctypes, "CDLL", lambda *ignored, **options: libc)
    monkeypatch.setattr(isa.ctypes, "get_errno", lambda: 22, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    ask = isa.tiles_refused.__wrapped__
    assert ask() == ""
    assert libc.asked == (158, 0x1023, 18)
    libc.answer = -1
    assert ask() == "the system refused: Invalid argument"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert ask() == "ggufpy cannot ask darwin for them"


def test_bf16_dot_products_need_the_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    by_name = {level.name: level for level in isa.LEVELS}
    for present in (set(), {"avx512bf16"}):
        monkeypatch.setattr(isa, "host_features", lambda present=present: frozenset(present))
        for name, level in by_name.items():
            assert isa.has_bf16_dot(level) == (bool(present) and name in ("amx", "avx512"))
    assert isa.features(by_name["avx2"]) == {"avx2", "f16c", "fma"}
    assert [name for name, level in by_name.items() if isa.has_tiles(level)] == ["amx"]


def test_emulated_tiles_run_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isa.EMULATED not in (*isa.LEVELS, *isa.available())
    monkeypatch.setenv("GGUFPY_ISA", isa.EMULATED.name)
    assert isa.current() == isa.EMULATED


def test_a_level_fixes_lanes_that_divide_a_block() -> None:
    from ggufpy.simd.lowering import LOWERINGS

    for level in (*isa.LEVELS, isa.EMULATED):
        assert level.lanes in (4, 8, 16)
        assert level.lowering in LOWERINGS


# Numba would hand Arm intrinsics to this machine's own code generator, which ends the process: so its code
# generation is switched off, in a process of its own, and only its IR is used.
CROSS = """
import re, sys
import llvmlite.binding as llvm
from numba.core import codegen
from ggufpy.jit import compile as compiler
from ggufpy.jit.spec import kernel
from ggufpy.simd import isa

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
TRIPLE = "aarch64-unknown-linux-gnu"
try:
    target = llvm.Target.from_triple(TRIPLE)
except RuntimeError as error:
    sys.exit(f"no target: {error}")
neon = next(level for level in isa.LEVELS if level.name == "neon")
cpu, features = isa.target(neon)
machine = target.create_target_machine(cpu=cpu, features=features, opt=3, reloc="pic", codemodel="small")
nothing = lambda *ignored: None
codegen.JITCodeLibrary._finalize_specific = codegen.JITCPUCodegen._add_module = nothing
codegen.JITCPUCodegen.set_env = nothing
codegen.JITCodeLibrary.get_pointer_to_function = lambda *ignored: 1
numba_ir = compiler._numba_ir

def for_arm(of, level):
    text, inner = numba_ir(of, level)
    text = re.sub('target triple = ".*"', f'target triple = "{TRIPLE}"', text)
    return re.sub('target datalayout = ".*"', f'target datalayout = "{machine.target_data}"', text), inner

compiler._numba_ir, compiler.target_machine = for_arm, lambda level: machine
assembly = compiler.assembly(kernel("matmul_int", bits=4, group=32, has_min=0, offset=8, tokens=1), neon)
packing = compiler.assembly(kernel("pack_blocks", type="iq4_nl"), neon)
print(*(assembly.count(name) for name in ("sdot", "fcvtl", "fmla")), packing.count("tbl"))
"""


def test_kernels_compile_to_arm_dot_products_and_tables() -> None:
    done = subprocess.run([sys.executable, "-c", CROSS], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode and "no target" in done.stderr:
        pytest.skip(f"this LLVM cannot generate code for Arm: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    sdot, fcvtl, fmla, tbl = map(int, done.stdout.split())
    assert tbl >= 8
    assert sdot >= 8
    assert fcvtl >= 1
    assert fmla >= 1
