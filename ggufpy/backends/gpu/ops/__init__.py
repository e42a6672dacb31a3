"""What becomes of each op on a GPU. A module has LOWERS, the ops that it takes, and `lower` (see `lowering.py`)."""
