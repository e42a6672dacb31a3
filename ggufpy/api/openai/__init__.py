"""Completions in OpenAI's shapes: one request in, one dict or a stream of chunk dicts out.

`asked.py` checks a request, `texts.py` runs it, `text.py`, `chat.py`, `embeddings.py` and `rerank.py` write down what
comes. What clients send over HTTP goes through `bodies.py`: `fields.py` has a table of the fields, `history.py` the
messages.
"""

from __future__ import annotations
