"""What becomes of each op on the CPU. A module has LOWERS, the ops that it takes, and `lower` (see `lowering.py`)."""
