"""Messages in Anthropic's shapes: one request in, one message or a stream of events out.

`request.py` checks a body and makes of it what `api/openai/asked.py` runs: `conversation.py` takes its messages apart
into `blocks.py`, `tools.py` its tools, `thinking.py` what it says of thoughts. `answer.py` writes down what comes.
`models.py` is the list of models. Field names and shapes: platform.claude.com/docs/en/api/messages, and the types of
the `anthropic` package.
"""

from __future__ import annotations
