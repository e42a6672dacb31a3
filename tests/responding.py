"""A model for tests of responses: it writes what the last name in its prompt says (`@name`), byte by byte."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
from llm_fakes import EOS, VOCAB, fake_llama

from ggufpy.llm import Llama

BEGIN = b";a"  # what the fake template ends a prompt with
CALL = '<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call>'
SCRIPTS = MappingProxyType(
    {
        "hello": "Hello, Zoë!",
        "nothing": "",
        "weather": CALL % ("weather", '{"city": "Paris"}'),
        "said": "I look.\n" + CALL % ("weather", '{"city": "Rome"}'),
        "patch": CALL % ("apply_patch", '{"input": "*** Begin Patch\\n+a = \\"é\\"\\\\"}'),
        "twice": CALL % ("weather", '{"city": "A"}') + "\n" + CALL % ("crm__find", "{}"),
        "json": '{"name": "Tom", "age": 5}',
    }
)


def _row(held: Sequence[int]) -> np.ndarray:
    raw = bytes(token for token in held if token < 256)
    prompt, _, made = raw.rpartition(BEGIN)
    names = re.findall(rb"@(\w+)", prompt)
    script = SCRIPTS[names[-1].decode()].encode() if names and names[-1].decode() in SCRIPTS else b"?"
    row = np.zeros(VOCAB, np.float32)
    row[script[len(made)] if len(made) < len(script) else EOS] = 10.0
    return row


def responding(n_ctx: int = 4096, n_parallel: int = 2) -> Llama:
    """Such a model."""
    return fake_llama(rows=_row, n_ctx=n_ctx, n_parallel=n_parallel)
