"""Numba types for kernels: LLVM vectors, fixed arrays of them in registers, and argument structs by address.

A `Vec` is a value: `a * b + c`, `a & b`, `a >> 4` work lane by lane. A `Struct` is the address of a NumPy structured
value; its fields are read as attributes.
"""

from __future__ import annotations

import operator
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.extending import lower_builtin, models, register_model
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AbstractTemplate, AttributeTemplate, infer_getattr, infer_global, signature

ELEMENTS = {"f32": ir.FloatType(), "i32": ir.IntType(32)}


class Vec(types.Type):
    """A vector of `lanes` elements: "f32" or "i32" (which also carries four bytes a lane)."""

    def __init__(self, element: str, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(name=f"vec{lanes}x{element}")

    @property
    def ir(self) -> ir.VectorType:
        return ir.VectorType(ELEMENTS[self.element], self.lanes)


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, fe_type.ir)


def constant(vec: Vec, value: float) -> ir.Constant:
    """A vector with `value` in every lane."""
    return ir.Constant(vec.ir, [value] * vec.lanes)


_INT_OPS = {"add": "add", "sub": "sub", "mul": "mul", "and_": "and_", "or_": "or_", "xor": "xor"}
_FLOAT_OPS = {"add": "fadd", "sub": "fsub", "mul": "fmul", "truediv": "fdiv"}


def _binary(python_op: Any, name: str) -> None:
    @infer_global(python_op)
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and isinstance(args[0], Vec) and args[0] == args[1]:
                table = _FLOAT_OPS if args[0].element == "f32" else _INT_OPS
                if name in table:
                    return signature(args[0], *args)
            return None

    @lower_builtin(python_op, Vec, Vec)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        table = _FLOAT_OPS if sig.return_type.element == "f32" else _INT_OPS
        return getattr(builder, table[name])(*args)


for _name in {**_INT_OPS, **_FLOAT_OPS}:
    _binary(getattr(operator, _name), _name)


def _shift(python_op: Any, method: str) -> None:
    """Shifts of 32-bit lanes by the same integer amount; right shifts fill with zeros."""

    @infer_global(python_op)
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and isinstance(args[0], Vec) and isinstance(args[1], types.Integer):
                return signature(args[0], args[0], types.int64)
            return None

    @lower_builtin(python_op, Vec, types.Integer)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vec = sig.args[0]
        amount = splat(builder, vec, builder.trunc(args[1], ir.IntType(32)))
        return getattr(builder, method)(args[0], amount)


def splat(builder: Any, vec: Vec, scalar: Any) -> Any:
    """A scalar in every lane."""
    i32 = ir.IntType(32)
    one = builder.insert_element(ir.Constant(vec.ir, ir.Undefined), scalar, ir.Constant(i32, 0))
    zeros = ir.Constant(ir.VectorType(i32, vec.lanes), [0] * vec.lanes)
    return builder.shuffle_vector(one, one, zeros)


_shift(operator.lshift, "shl")
_shift(operator.rshift, "lshr")


class Distances(types.Type):
    """Four whole numbers of which `t * distances` is number t: what stands where others have t times one distance."""

    ir = ir.VectorType(ir.IntType(64), 4)

    def __init__(self) -> None:
        super().__init__(name="distances")


@register_model(Distances)
class _DistancesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Distances) -> None:
        super().__init__(dmm, fe_type, fe_type.ir)


@infer_global(operator.mul)
class _DistancesTyping(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if len(args) == 2 and isinstance(args[1], Distances) and isinstance(args[0], types.Integer):
            return signature(types.int64, types.int64, args[1])
        return None


@lower_builtin(operator.mul, types.Integer, Distances)
def _lower_distance(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.extract_element(args[1], args[0])


class Registers(types.Type):
    """`count` vectors indexed by constants once loops are unrolled, so that LLVM keeps them in registers."""

    def __init__(self, vec: Vec, count: int) -> None:
        self.vec, self.count = vec, count
        super().__init__(name=f"registers{count}of{vec.name}")


@register_model(Registers)
class _RegistersModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Registers) -> None:
        super().__init__(dmm, fe_type, fe_type.vec.ir.as_pointer())


@infer_global(operator.getitem)
class _RegistersGet(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if isinstance(args[0], Registers):
            return signature(args[0].vec, args[0], types.int64)
        return None


@lower_builtin(operator.getitem, Registers, types.Integer)
def _lower_get(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.load(builder.gep(args[0], [args[1]]))


@infer_global(operator.setitem)
class _RegistersSet(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if isinstance(args[0], Registers):
            return signature(types.void, args[0], types.int64, args[0].vec)
        return None


@lower_builtin(operator.setitem, Registers, types.Integer, Vec)
def _lower_set(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    builder.store(args[2], builder.gep(args[0], [args[1]]))
    return context.get_dummy_value()


class Struct(types.Type):
    """The address of one value of a NumPy structured dtype with i8, i4 and f4 fields."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.names = dtype.names or ()
        super().__init__(name=f"struct {dtype.descr}")

    def field(self, name: str) -> tuple[np.dtype[Any], int]:
        """A field's dtype and its offset in bytes."""
        fields = cast("dict[str, tuple[np.dtype[Any], int]]", self.dtype.fields)
        return fields[name][0], fields[name][1]


_FIELD_TYPES = {"i8": types.int64, "i4": types.int32, "f4": types.float32}


@register_model(Struct)
class _StructModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Struct) -> None:
        super().__init__(dmm, fe_type, ir.IntType(64))


@infer_getattr
class _StructAttribute(AttributeTemplate):
    key = Struct

    def generic_resolve(self, typ: Struct, attr: str) -> Any:
        return _FIELD_TYPES[typ.field(attr)[0].str[1:]] if attr in typ.names else None


@lower_getattr_generic(Struct)
def _lower_field(context: Any, builder: Any, typ: Struct, value: Any, attr: str) -> Any:
    field, offset = typ.field(attr)
    kind = context.get_value_type(_FIELD_TYPES[field.str[1:]])
    address = builder.add(value, ir.Constant(ir.IntType(64), offset))
    return builder.load(builder.inttoptr(address, kind.as_pointer()))
