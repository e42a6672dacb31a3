"""Completions in OpenAI's shapes: one request in, one dict or a stream of chunk dicts out.

`asked.py` checks a request, `texts.py` runs it, `text.py`, `chat.py` and `embeddings.py` write down what comes.
"""

from __future__ import annotations
