"""The tokens of what chats have said."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

import ggufpy
from ggufpy.api.openai import turns
from ggufpy.api.openai.turns import Turns
from ggufpy.tokenizers import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Bytes, "he" and "<e>", which is a control token."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = iter(range(256, 512))
    texts = [chr(byte) if byte in printable else chr(next(rest)) for byte in range(256)]
    keys: dict[str, Any] = {"general.architecture": "bytes", "tokenizer.ggml.model": "gpt2"}
    keys |= {"tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": [*texts, "he", "<e>"]}
    keys |= {"tokenizer.ggml.token_type": [1] * 257 + [3], "tokenizer.ggml.merges": ["h e"]}
    path: Path = tmp_path_factory.mktemp("vocabulary") / "v.gguf"
    ggufpy.write(path, keys, {"t": np.ones(32, np.float32)})
    return ggufpy.load_tokenizer(path)


def found(kept: Turns, tokenizer: Tokenizer, text: str) -> list[int]:
    return kept.tokens(tokenizer, text, tokenizer.encode(text, parse_special=True))


def test_a_turn_goes_on_with_the_tokens_that_were_drawn(tokenizer: Tokenizer) -> None:
    kept = Turns()
    kept.keep(tokenizer, "a<e>", [97, 257], [*b"he"])  # not the token that "he" is
    assert tokenizer.encode("a<e>he<e>", parse_special=True) == [97, 257, 256, 257]
    assert found(kept, tokenizer, "a<e>he<e>he") == [97, 257, *b"he", 257, 256]
    assert found(kept, tokenizer, "a<e>he") == [97, 257, *b"he"]
    assert found(kept, tokenizer, "a<e>hey") == [97, 257, 256, 121]  # a word would be cut
    assert found(kept, tokenizer, "b<e>he<e>") == [98, 257, 256, 257]


def test_the_longest_counts_and_the_oldest_goes(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Turns()
    kept.keep(tokenizer, "a<e>", [97, 257], [*b"he"])
    kept.keep(tokenizer, "a<e>he<e>", [97, 257, *b"he", 257], [*b"he"])
    assert found(kept, tokenizer, "a<e>he<e>he<e>") == [97, 257, *b"he", 257, *b"he", 257]
    monkeypatch.setattr(turns, "MOST", 1)
    kept.keep(tokenizer, "b<e>", [98, 257], [*b"he"])
    assert found(kept, tokenizer, "a<e>he<e>") == [97, 257, 256, 257]
    assert found(kept, tokenizer, "b<e>he<e>") == [98, 257, *b"he", 257]
    monkeypatch.setattr(turns, "MOST_CHARACTERS", 3)
    kept.keep(tokenizer, "c<e>", [99, 257], [*b"he"])
    assert found(kept, tokenizer, "c<e>he<e>") == [99, 257, 256, 257]


def test_a_turn_is_kept_wherever_the_collector_ends_its_stream(tokenizer: Tokenizer) -> None:
    kept = Turns()

    def within() -> None:
        with kept._lock:  # as a collection would find it that runs there
            kept.keep(tokenizer, "a<e>", [97, 257], [*b"he"])

    thread = Thread(target=within, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert found(kept, tokenizer, "a<e>he") == [97, 257, *b"he"]
