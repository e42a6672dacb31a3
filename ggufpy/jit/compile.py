"""From a kernel's Python source to object code: Numba types and lowers it, LLVM compiles it for the level's target.

Numba's own machine code is not used: its optimised IR is linked under a plain C entry point
`void name(int64 args, int64 ith, int64 nth)`, everything else made private, and compiled once more, so that a level
below the machine's own is honoured and the result depends on nothing in the process that made it.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import llvmlite.binding as llvm
from numba.core import types
from numba.core.compiler import Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from ggufpy.simd.emulated import STATE_SYMBOL
from ggufpy.simd.frontend import WHOLE, Frontend
from ggufpy.simd.isa import Level, target
from ggufpy.simd.primitives import primitives
from ggufpy.simd.vectors import Struct

from .objects import ALLOWED_SYMBOLS, ObjectError, check_object
from .spec import Kernel, code_level, load_source


def allowed_symbols(level: Level) -> frozenset[str]:
    """What code of a level may refer to."""
    return ALLOWED_SYMBOLS | ({STATE_SYMBOL} if level.lowering == "amx_emulated" else frozenset())


def object_triple() -> str:
    """What objects are made for: this process; as ELF on Windows, so that they are checked and linked as elsewhere."""
    triple = str(llvm.get_process_triple())
    return f"{triple}-elf" if "windows" in triple and not triple.endswith("-elf") else triple


def target_machine(level: Level) -> Any:
    """LLVM's code generator for a level."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu, features = target(level)
    triple = llvm.Target.from_triple(object_triple())
    return triple.create_target_machine(cpu=cpu, features=features, opt=3, reloc="pic", codemodel="small")


def _flags() -> Flags:
    flags = Flags()
    flags.no_compile = True
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.nrt = False
    flags.error_model = "numpy"
    return flags


def _numba_ir(kernel: Kernel, level: Level) -> tuple[str, str]:
    """The kernel's LLVM IR with all it calls, and the name of its entry there."""
    source = load_source(kernel)
    function = source.build(primitives(level), kernel.parameters)
    signature = (Struct(source.ARGS), types.int64, types.int64)
    compiled = compile_extra(
        cpu_target.typing_context,
        cpu_target.target_context,
        function,
        signature,
        types.void,
        _flags(),
        {},
        pipeline_class=Frontend,
    )
    compiled.library.finalize()
    return compiled.library.get_llvm_str(), compiled.fndesc.llvm_func_name


def _entry_ir(symbol: str, inner: str, triple: str) -> str:
    """A C entry point around Numba's convention (result and error pointers first, status returned)."""
    return f"""
target triple = "{triple}"
declare i32 @"{inner}"(ptr, ptr, i64, i64, i64)
define void @"{symbol}"(i64 %args, i64 %ith, i64 %nth) {{
  %result = alloca ptr
  %error = alloca ptr
  %status = call i32 @"{inner}"(ptr %result, ptr %error, i64 %args, i64 %ith, i64 %nth)
  ret void
}}
"""


def _optimise(module: Any, machine: Any) -> None:
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = False
    options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Leaves garbage where it is: looking for it takes 8 % of compiling."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@global_compiler_lock
@_uncollected()
def lower(kernel: Kernel, level: Level) -> tuple[Any, Any]:
    """(optimised LLVM module with one public function, its target machine)."""
    level = code_level(kernel, level)
    text, inner = _numba_ir(kernel, level)
    machine = target_machine(level)
    module = llvm.parse_assembly(text)
    module.link_in(llvm.parse_assembly(_entry_ir(kernel.symbol, inner, module.triple)))
    for function in module.functions:
        if not function.is_declaration and function.name != kernel.symbol:
            function.linkage = "internal"
            # Inlined, so that vectors stay in registers across helpers.
            function.add_function_attribute("noinline" if WHOLE in function.name else "alwaysinline")
    for variable in module.global_variables:
        if not variable.is_declaration:
            variable.linkage = "internal"
    _optimise(module, machine)
    module.verify()
    used = {f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")}
    if surplus := used - allowed_symbols(level):
        raise RuntimeError(f"kernel {kernel.symbol} needs {', '.join(sorted(surplus))}")
    return module, machine


def object_code(kernel: Kernel, level: Level) -> bytes:
    """Compiles a kernel to a relocatable object file's bytes. Raises ObjectError for one that must not be linked."""
    module, machine = lower(kernel, level)
    code = bytes(machine.emit_object(module))
    try:
        check_object(code, allowed_symbols(level))
    except ObjectError as error:
        raise ObjectError(f"kernel {kernel.symbol} at {level.name} is refused: {error}") from error
    return code


def assembly(kernel: Kernel, level: Level) -> str:
    """The kernel's assembly text: look here before guessing at speed."""
    module, machine = lower(kernel, level)
    return str(machine.emit_assembly(module))
