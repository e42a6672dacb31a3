"""What becomes of each field of ollama's requests: the tables that requests are checked by and the docs are made of.

A field is "honoured", "taken" (checked, without effect) or "refused" where it is more than null; the note says how.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.support import checks

HONOURED, TAKEN, REFUSED = "honoured", "taken", "refused"
Table = Mapping[str, tuple[str, str]]


def _table(rows: dict[str, tuple[str, str]]) -> Table:
    return MappingProxyType(rows)


_CALL = {
    "model": (HONOURED, '":latest" is left out; hf.co/owner/repo:quant is hf:owner/repo:quant'),
    "options": (HONOURED, "see options"),
    "keep_alive": (HONOURED, 'seconds, or a text such as "5m"; below 0 for ever, 0 unloads after the request'),
}
_ANSWER = {
    **_CALL,
    "stream": (HONOURED, "true unless it is false"),
    "format": (HONOURED, '"json" or a JSON schema, enforced'),
    "think": (HONOURED, 'true, false, "low", "medium" or "high"; refused by models that do not think'),
    "logprobs": (HONOURED, ""),
    "top_logprobs": (HONOURED, "0 to 20"),
    "truncate": (REFUSED, "a prompt that does not fit is refused with both numbers, and never cut: false is taken"),
    "shift": (REFUSED, 'a text ends where the context does (done_reason "length"): false is taken'),
}
_PICTURES = (REFUSED, "models are given text only here")

FIELDS: Mapping[str, Table] = MappingProxyType(
    {
        "/api/chat": _table(
            {
                **_ANSWER,
                "messages": (HONOURED, "none of them loads the model, or unloads it with keep_alive 0"),
                "tools": (HONOURED, "calls come whole, their arguments as objects"),
            }
        ),
        "messages": _table(
            {
                "role": (HONOURED, "system, user, assistant, tool"),
                "content": (HONOURED, "a text; an assistant's at the end is gone on with"),
                "thinking": (HONOURED, ""),
                "tool_calls": (HONOURED, ""),
                "tool_name": (HONOURED, "of an answer: the call of this name that has none yet"),
                "tool_call_id": (HONOURED, ""),
                "name": (HONOURED, "as tool_name"),
                "images": _PICTURES,
            }
        ),
        "/api/generate": _table(
            {
                **_ANSWER,
                "prompt": (HONOURED, "an empty one loads the model, or unloads it with keep_alive 0"),
                "suffix": (HONOURED, "fills in between, with models that have tokens for it"),
                "system": (HONOURED, ""),
                "raw": (HONOURED, "without the chat template, and so without system and context"),
                "context": (HONOURED, "what an earlier answer gave; tokens, checked"),
                "template": (REFUSED, "it is one of Go's, and the model's own is used: write the prompt with raw"),
                "images": _PICTURES,
                **dict.fromkeys(("width", "height", "steps"), (REFUSED, "no pictures are made here")),
            }
        ),
        "options": _table(
            {
                "temperature": (HONOURED, "0.8 unless it is given"),
                "top_k": (HONOURED, "40"),
                "top_p": (HONOURED, "0.9"),
                "min_p": (HONOURED, "0"),
                "typical_p": (HONOURED, "1"),
                "repeat_last_n": (HONOURED, "64; -1 is the whole context"),
                "repeat_penalty": (HONOURED, "1.1"),
                "presence_penalty": (HONOURED, "0"),
                "frequency_penalty": (HONOURED, "0"),
                "mirostat": (HONOURED, "0, 1 or 2"),
                "mirostat_tau": (HONOURED, "5"),
                "mirostat_eta": (HONOURED, "0.1"),
                "seed": (HONOURED, "-1, another one every time"),
                "stop": (HONOURED, "a text or some"),
                "num_predict": (HONOURED, "-1, -2 and 0 are no limit but the context"),
                "num_ctx": (HONOURED, "more than the model is served with is refused; less takes nothing away"),
                "penalize_newline": (HONOURED, "true is so; false is refused"),
                "tfs_z": (HONOURED, "1 is so; others are refused, as llama.cpp has dropped it"),
                "num_keep": (TAKEN, "nothing is forgotten"),
                **dict.fromkeys(
                    ("num_batch", "num_gpu", "main_gpu", "num_thread", "numa", "low_vram", "f16_kv", "use_mmap",
                     "use_mlock", "logits_all", "vocab_only", "embedding_only"),
                    (TAKEN, "the server's flags say how models are loaded"),
                ),
            }
        ),
        "/api/embed": _table(
            {
                **_CALL,
                "input": (HONOURED, "a text or some; none load the model"),
                "truncate": (HONOURED, "true unless it is false: the beginning of a longer text counts"),
                "dimensions": (HONOURED, "so many numbers of each vector, made 1 long again"),
            }
        ),
        "/api/embeddings": _table({**_CALL, "prompt": (HONOURED, "an empty one loads the model")}),
        "/api/show": _table(
            {
                "model": (HONOURED, ""),
                "name": (HONOURED, "the older name of model"),
                "verbose": (HONOURED, "arrays of the metadata, and the tensors"),
                **dict.fromkeys(("system", "template", "options"), (REFUSED, "there is no Modelfile to change")),
            }
        ),
        "/api/pull": _table(
            {
                "model": (HONOURED, "a known name, hf:owner/repo[:quant] or hf.co/owner/repo[:quant]"),
                "name": (HONOURED, "the older name of model"),
                "stream": (HONOURED, "true unless it is false"),
                "insecure": (REFUSED, "models are fetched over TLS only: false is taken"),
                **dict.fromkeys(("username", "password"), (REFUSED, "set HF_TOKEN where the server runs")),
            }
        ),
    }
)  # fmt: skip


def check(where: str, given: Mapping[str, Any]) -> None:
    """Raises GGUFError for a field that the table `where` does not have, with the nearest, or that it refuses.

    A refused field that asks for nothing (null, false, an empty text or list) passes.
    """
    table, prefix = FIELDS[where], "options." if where == "options" else ""
    for name, value in given.items():
        if name not in table:
            shown = name[:80] if name.isprintable() else ascii(name[:80])
            raise GGUFError(f"{prefix}{shown} is no field of {where}{checks.meant(name, table)}")
        state, note = table[name]
        if state == REFUSED and value not in (None, False, "", [], {}):
            raise GGUFError(f"{prefix}{name} cannot be honoured: {note}")
