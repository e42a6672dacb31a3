"""Decode one tensor of a GGUF file to float32: python examples/read_tensor.py FILE blk.0.attn_q.weight"""

import sys

import ggufpy

path, name = sys.argv[1:3]
with ggufpy.open(path) as file:
    tensor = file.tensors[name]
    print(f"{tensor.name}: type {tensor.type}, shape {tensor.shape}, {tensor.nbytes} bytes at {tensor.offset}")
    weights = tensor.to_numpy()
    print(f"mean {weights.mean():.6f}, standard deviation {weights.std():.6f}")
    print(weights)
