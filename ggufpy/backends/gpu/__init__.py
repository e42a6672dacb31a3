"""Layers on a GPU: CUDA C++ sources (`kernels/`), what becomes of an op (`ops/`), and a device that runs them.

Nothing here imports CuPy but `cuda.py`, and nothing imports that before layers are to go to a GPU.
"""
