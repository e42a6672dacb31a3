"""CUDA C++ sources, a kernel a file: compiled for the device that there is, and for the CPU in tests."""
