"""Loads for `ggufpy serve`, on this machine: `client.py` asks, `process.py` starts a server; each tool beside them."""
