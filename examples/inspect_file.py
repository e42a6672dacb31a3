"""Print what a GGUF file says of itself: python examples/inspect_file.py model.gguf"""

import sys

import ggufpy

with ggufpy.open(sys.argv[1]) as file:
    print(f"GGUF {file.version}, {file.byteorder}-endian, {len(file.tensors)} tensors")
    for key in file.metadata:
        kind = file.metadata.type(key)
        if kind.startswith("array"):
            print(f"{key}: {kind}, {file.metadata.count(key)} elements")
        else:
            print(f"{key}: {kind} {file.metadata[key]!r}")
