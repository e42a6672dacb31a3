"""llama-server's `/infill`: what comes between two texts of a file, with other files for context.

In: a model and a body. Out: the tokens of a prompt. Its form, and how much of long texts is taken, are llama.cpp's
(tools/server/server-common.cpp, format_prompt_infill); for models that know repositories that of Qwen2.5-Coder
(https://arxiv.org/abs/2409.12186).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ggufpy.api.llama.prompts import mixed
from ggufpy.errors import GGUFError
from ggufpy.support import checks
from ggufpy.tokenizers.fill import context_tokens, fill_tokens

if TYPE_CHECKING:
    from ggufpy.api.asynchronous import AsyncCompletions

FIELDS = ("input_prefix", "input_suffix", "input_extra")
REPOSITORY, FILE, OTHER_FILE = "myproject\n", "filename\n", "tmp"  # names where none are known, as in llama-server
SNIPPET = "\n\n--- snippet ---\n\n"  # before a file, for models that have no token for that
PARTS = 4  # of a batch: three for what is before, one for what is behind


class NotSupported(GGUFError):
    """The model cannot do what is asked for."""


def tokens(llm: AsyncCompletions, body: Mapping[str, Any], n_predict: int) -> list[int]:
    """The prompt. Raises GGUFError for fields that are wrong, NotSupported for a model that cannot fill in."""
    vocab = llm.tokenizer.vocab
    try:
        fill = fill_tokens(vocab, llm.metadata)
    except GGUFError:
        raise NotSupported("the model has no tokens to fill in with: take a model of code that has") from None
    before, behind = (_part(llm, body, name) for name in FIELDS[:2])
    front = llm.tokenizer.encode(checks.text("prompt", body.get("prompt") or ""), parse_special=True)
    batch = llm.engine.rows
    share = batch // PARTS
    before = before[max(len(before) - (PARTS - 1) * share, 0) :] if share else []
    behind = behind[: max(share - 2 - len(front), 0)]
    first, second = [fill.prefix, *before, *front], [fill.suffix, *behind]
    if llm.spm_infill:
        first, second = second, first
    tokenizer = llm.tokenizer
    beginning = [tokenizer.bos] if tokenizer.add_bos and tokenizer.bos is not None else []
    extra = _context(llm, body.get("input_extra"))
    room = max(llm.n_ctx() - batch - 2 * max(n_predict, 0), 0)
    context = extra[len(extra) - min(room, len(extra)) :]
    middle = [] if fill.middle is None else [fill.middle]
    return [*context, *beginning, *first, *second, *middle]


def _part(llm: AsyncCompletions, body: Mapping[str, Any], name: str) -> list[int]:
    """The tokens of what is before, or behind."""
    if body.get(name) is None:
        raise GGUFError(f"{name} is missing; a text is wanted, which may be empty")
    return mixed(llm, name, body[name], add_special=False, parse_special=False)


def _context(llm: AsyncCompletions, given: object) -> list[int]:
    """The tokens of other files: [{filename, text}, ...]."""
    chunks = [] if given is None else checks.items("input_extra", given, "a list of {filename, text}")
    encode = llm.tokenizer.encode
    repository, file = context_tokens(llm.tokenizer.vocab, llm.metadata)
    made = [] if repository is None else [repository, *encode(REPOSITORY)]
    for i, chunk in enumerate(chunks):
        name, text = _chunk(f"input_extra[{i}]", chunk)
        made += encode(SNIPPET) if file is None else [file, *encode(f"{name}\n")]
        made += encode(text)
    return made if file is None else [*made, file, *encode(FILE)]


def _chunk(name: str, chunk: object) -> tuple[str, str]:
    """The name and the text of a file."""
    if not isinstance(chunk, Mapping) or "text" not in chunk:
        raise GGUFError(f"{name} is {checks.shown(chunk)}; {{filename, text}} is wanted")
    file = OTHER_FILE if chunk.get("filename") is None else checks.text(f"{name}.filename", chunk["filename"])
    return file, checks.text(f"{name}.text", chunk["text"])
