"""Kernels that encode and decode blocks; what a kernel source is, `backends/cpu/kernels/__init__.py` says."""
