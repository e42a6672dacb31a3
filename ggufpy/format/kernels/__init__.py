"""Kernels that read files; what a kernel source is, `backends/cpu/kernels/__init__.py` says."""
