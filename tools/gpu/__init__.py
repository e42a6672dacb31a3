"""Parts of `tools/gpu_bench.py`: what the compiler says of kernels, what a card can do, and kernel tests on a card."""
