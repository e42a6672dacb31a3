"""From checkpoints of other programs to GGUF, and back."""
