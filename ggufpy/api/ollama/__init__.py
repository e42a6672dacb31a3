"""Chats and texts in ollama's shapes: a request's body in, lines of a stream or one record out.

`fields.py` says what becomes of each field, `options.py` reads ollama's options, `messages.py` its messages, `asked.py`
makes the request of them, `shapes.py` tells the answer. Facts about the interface are from ollama's docs/api.md,
api/types.go and server/routes.go.
"""

from __future__ import annotations
