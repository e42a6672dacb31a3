"""A model small enough to follow by hand: ids are bytes; after byte b comes b + 1, after "z" the end."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from ggufpy.errors import GGUFError
from ggufpy.generate.loading import Later, LoadOptions, Parts
from ggufpy.llm import Llama
from ggufpy.tokenizers.texts import TokenTexts

BOS, EOS, VOCAB = 256, 257, 258
Rows = Callable[[Sequence[int]], np.ndarray]


def vague(held: Sequence[int]) -> np.ndarray:
    """Logits over ten letters that depend on the last three tokens, several of them likely: what a sampler needs."""
    row = np.full(VOCAB, -9.0, np.float32)
    row[97:107] = np.random.default_rng(list(held[-3:])).normal(0.0, 2.0, 10)
    return row


class FakeSequence:
    """The tokens that it holds, `held`."""

    def __init__(self, engine: FakeEngine, held: Sequence[int] = ()) -> None:
        self.engine, self.held, self.closed = engine, list(held), False
        self.most = 0  # tokens that it has ever held
        self.scales: tuple[float, ...] = ()

    @property
    def n_past(self) -> int:
        return len(self.held)

    def truncate(self, n: int) -> None:
        assert 0 <= n <= len(self.held)
        del self.held[n:]

    def keepable(self, n: int) -> int:
        return n

    def fork(self, n: int) -> FakeSequence:
        assert 0 <= n <= len(self.held)
        return self.engine.sequence(self.scales, self.held[:n])

    def shift(self, keep: int, drop: int) -> None:
        assert keep >= 0
        assert 0 < drop <= len(self.held) - keep
        self.engine.shifts.append((keep, drop))
        del self.held[keep : keep + drop]

    def close(self) -> None:
        self.closed = True
        self.held.clear()


class FakeEngine:
    """An engine that logs what it evaluates, chunk by chunk, which of it are drafts, and shifts.

    `succ` gives the likeliest token after the newest one; `rows_of`, in its place, logits for all that is held. A step
    that would bring a sequence beyond `fail_after` tokens is interrupted.
    """

    n_vocab, n_embd, n_threads, isa = VOCAB, 8, 1, "fake"
    weight_bytes, kv_bytes, type_name, whole_texts, makes_logits = 1000, 100, "F32", False, True
    prompt_seconds = 0.0

    def __init__(
        self,
        n_ctx: int = 64,
        succ: Callable[[int], int] | None = None,
        rows: Rows | None = None,
        n_batch: int = 512,
        n_parallel: int = 1,
    ) -> None:
        self.n_ctx, self.rows, self.parallel = n_ctx, n_batch, n_parallel
        self.rows_of = rows
        self.log: list[list[int]] = []
        self.drafts: list[list[int]] = []
        self.shifts: list[tuple[int, int]] = []
        self.steps: list[list[tuple[FakeSequence, int, str]]] = []  # sequence, tokens and wanted logits, by chunk
        self.sequences: list[FakeSequence] = []
        self.latest: FakeSequence | None = None
        self.before: Callable[[], None] | None = None  # called within every step
        self.fail_after: int | None = None
        self.closed = False
        self._lent: list[np.ndarray] = []  # logits that are there until the next step
        self.succ = succ or (lambda token: EOS if token == ord("z") else (token + 1) % 256)

    @property
    def held(self) -> list[int]:
        """What the sequence holds that was evaluated last."""
        return [] if self.latest is None else self.latest.held

    def sequence(self, scales: tuple[float, ...] = (), held: Sequence[int] = ()) -> FakeSequence:
        self.sequences = [*(s for s in self.sequences if not s.closed), FakeSequence(self, held)]
        assert len(self.sequences) <= self.parallel + 1
        return self.sequences[-1]

    def reads_in_bulk(self, count: int) -> bool:
        return False

    def tokens(self, tokens: Sequence[int]) -> np.ndarray:
        for token in tokens:
            if not 0 <= token < self.n_vocab:
                raise GGUFError(f"token {token} is not in the vocabulary")
        return np.array(tokens, np.int64)

    def step(self, chunks: Sequence[Any], out: Any = None) -> list[np.ndarray]:
        if self.before is not None:
            self.before()
        assert 0 < sum(len(chunk.tokens) for chunk in chunks) <= self.rows
        assert len({id(chunk.sequence) for chunk in chunks}) == len(chunks) <= self.parallel
        self.steps.append([(chunk.sequence, len(chunk.tokens), chunk.logits) for chunk in chunks])
        for rows in self._lent:
            rows.fill(np.nan)
        found = [self._evaluate(chunk) for chunk in chunks]
        self._lent = [rows for rows, chunk in zip(found, chunks, strict=True) if chunk.lent]
        return found

    def _evaluate(self, chunk: Any) -> np.ndarray:
        held, tokens = chunk.sequence.held, list(chunk.tokens)
        self.latest = chunk.sequence
        if self.fail_after is not None and len(held) + len(tokens) > self.fail_after:
            raise KeyboardInterrupt
        if len(held) + len(tokens) > self.n_ctx:
            raise GGUFError("the context is full")
        self.log.append(tokens)
        if chunk.logits == "all" and len(tokens) > 1:
            self.drafts.append(tokens)
        start = len(held)
        held += tokens
        chunk.sequence.most = max(chunk.sequence.most, len(held))
        count = {"none": 0, "last": 1, "all": len(tokens)}[chunk.logits]
        rows = [self._row(held[: i + 1]) for i in range(start + len(tokens) - count, len(held))]
        return np.stack(rows) if rows else np.zeros((0, self.n_vocab), np.float32)

    def read(self, sequence: FakeSequence, tokens: Sequence[int], logits: str = "last", exact: bool = False) -> Any:
        if not tokens:
            return np.zeros((0, self.n_vocab), np.float32)
        return self._evaluate(SimpleNamespace(sequence=sequence, tokens=tokens, logits=logits))

    def prompt_flops(self, tokens: int) -> float:
        return 2e6 * tokens

    def close(self) -> None:
        self.closed = True
        self.sequences.clear()

    def _row(self, held: list[int]) -> np.ndarray:
        if self.rows_of is not None:
            return self.rows_of(held)
        row = np.zeros(VOCAB, np.float32)
        row[self.succ(held[-1])] = 10.0
        return row


class FakeTokenizer:
    """Bytes as ids; `<end>` is the end token when special tokens are parsed."""

    n_vocab, bos, eos, add_bos, add_eos = VOCAB, BOS, EOS, True, False
    end_tokens = frozenset({EOS})

    def __init__(self, texts: list[str] | None = None) -> None:
        types = np.array([1] * 256 + [3] * 2, np.int32)
        texts = texts or [str(i) for i in range(VOCAB)]
        self.vocab = SimpleNamespace(texts=texts, ids={}, types=types, stored_types=types)
        self.texts = TokenTexts(self)

    def encode(self, text: str | bytes, add_special: bool = False, parse_special: bool = False) -> list[int]:
        raw = text.encode() if isinstance(text, str) else text
        ids: list[int] = [BOS] if add_special else []
        for i, part in enumerate(raw.split(b"<end>") if parse_special else [raw]):
            ids += ([EOS] if i else []) + list(part)
        return ids

    def pair(self, first: str, second: str) -> list[int]:
        return [BOS, *self.encode(first), EOS, *self.encode(second), EOS]

    def token_bytes(self, token: int, special: bool = True) -> bytes:
        return bytes([token]) if token < 256 else b""

    def decode_bytes(self, ids: Iterable[int], special: bool = False) -> bytes:
        return b"".join(self.token_bytes(i) for i in ids)

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def stream(self, shown: frozenset[int] = frozenset()) -> Any:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return SimpleNamespace(
            push=lambda token: decoder.decode(self.token_bytes(token)),
            flush=lambda: decoder.decode(b"", True),
        )


class FakeTemplate:
    """Renders `role:content;` for each message."""

    source = ""

    def render(self, messages: list[dict[str, str]], add_generation_prompt: bool = True, **_: Any) -> str:
        return "".join(f"{m['role']}:{m['content']};" for m in messages) + "a" * add_generation_prompt

    def close(self) -> None:
        pass


def parts(
    n_ctx: int = 64,
    template: bool = True,
    succ: Callable[[int], int] | None = None,
    rows: Rows | None = None,
    texts: list[str] | None = None,
    **more: int,
) -> Parts:
    """The parts of a fake model."""
    file = SimpleNamespace(
        metadata={"general.architecture": "fake", "tokenizer.ggml.model": "fake"},
        tensors={"a": SimpleNamespace(nbytes=700), "b": SimpleNamespace(nbytes=300)},
        close=lambda: None,
    )
    engine: Any = FakeEngine(n_ctx, succ, rows, **more)
    tokenizer: Any = Later(lambda: FakeTokenizer(texts))
    made: Any = Later(lambda: FakeTemplate() if template else None)
    tokenizer.start()
    return Parts("fake.gguf", engine, file, tokenizer, made)  # type: ignore[arg-type]


def fake_llama(
    seed: int | None = None, lookup: int = 0, draft_model: Llama | None = None, draft_max: int = 16, **options: Any
) -> Llama:
    """A `Llama` around the fake model."""
    drafts = LoadOptions(lookup=lookup, draft_model=draft_model, draft_max=draft_max)
    return Llama.from_parts(parts(**options), seed, drafts)
