"""The CPU: packed weights, threads, and the tapes of kernel calls that plans become."""
