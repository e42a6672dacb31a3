"""`ggufpy serve`: the interfaces of OpenAI, Anthropic, ollama and llama-server over HTTP (extra `server`).

A request goes exchange.py (body, checks) → pool.py (its model) → queue.py (its place) → work.py (deltas of its texts)
→ a shape of `api/` (records) → a family's frames (bytes). Routes are in `routes/`, a module a group of paths.
"""
