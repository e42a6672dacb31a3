"""Block types: a module each, named as the type in lower case, which ends with its `BlockType`, `BLOCK`."""
