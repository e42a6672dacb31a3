"""Kernels of a forward pass. Every module is one kernel's source, or what several of them share.

A kernel source has `ARGS`, the dtype of its argument struct, and `build(v, p)`, which returns the Python function
`(args, ith, nth)` for the primitives `v` of a level and the constants `p`. Thread `ith` of `nth` does its share.

Fields of `ARGS` say what they are (`jit/spec.py`: `struct`): `x_ptr` is an address, `n_rows` a count, `x_stride` bytes
from row to row, `scratch_bytes` a size, `is_neox` or `adds` a flag, `window` a plain number.

A source opens with the shapes of its data: `x   [n_rows][n_blocks][32] f32, rows x_stride bytes apart` is what `x_ptr`
points to, the index that moves fastest last. Where there is nothing to say of a distance, parts follow each other.
"""
