"""Vectors for kernels: what the CPU has (`isa`), Numba vector types (`vectors`) and the primitives kernels call.

Only `isa` is imported to run; the rest imports Numba and is needed to compile a kernel.
"""
