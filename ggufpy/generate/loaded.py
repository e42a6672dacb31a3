"""A loaded model by tokens: what it is, what it makes of them and how they go on, for calls of any threads.

In: parts (`loading.py`), then tokens or text. Out: tokens, logits. `ggufpy.Llama` adds the shapes of other interfaces.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from ggufpy.errors import GGUFError
from ggufpy.generate import loading
from ggufpy.generate.draft_functions import LlamaDraftModel, drafter_of
from ggufpy.generate.drafters import Drafter, DraftModel, PromptLookup, Speculation
from ggufpy.generate.loading import LoadOptions, Parts
from ggufpy.generate.loop import CLOSED, Loop, Stream
from ggufpy.generate.reopening import Reopened
from ggufpy.runtime.request import Request, Reuse
from ggufpy.support import checks

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.chat import ChatTemplate
    from ggufpy.generate.sampling import Guides, Sampler, Sampling
    from ggufpy.runtime import Engine
    from ggufpy.tokenizers import Tokenizer

NO_TOKEN = -1  # in place of a token where there is none
POOLINGS = ("none", "mean", "cls", "last", "rank")  # by number: enum llama_pooling_type in include/llama.h of llama.cpp
SEED_BITS = 63  # of a text's seed, which others keep as a signed whole number
NEW_SEED = (None, -1, 0xFFFFFFFF)  # seeds that mean another one every time, as llama.cpp has it

Self = TypeVar("Self", bound="LoadedModel")


class LoadedModel(Reopened):
    """A model that is ready, and whose calls are evaluated together: `ggufpy.Llama` says what that promises."""

    @classmethod
    def from_options(
        cls: type[Self], model: str | os.PathLike[str], options: LoadOptions, seed: int | None = None
    ) -> Self:
        """A model with everything that the command line can ask for."""
        return cls.from_parts(loading.load_parts(model, options), seed, options)

    @classmethod
    def from_parts(cls: type[Self], parts: Parts, seed: int | None = None, options: LoadOptions | None = None) -> Self:
        """A model around an engine and tokeniser that exist already; of `options` only drafting counts."""
        self = cls.__new__(cls)
        self._setup(parts, seed, options or LoadOptions())
        return self

    def _setup(self, parts: Parts, seed: int | None, options: LoadOptions) -> None:
        self._made_of: Parts | None = parts  # None once this is closed
        self._name = parts.name
        self._loop: Loop | None = Loop(parts.engine)
        self._draft_model: LoadedModel | None = None  # one that was opened here
        self._seeding = Lock()
        self._seed = None if seed in NEW_SEED else seed
        try:
            self._drafting = self._drafting_by(options)
        except BaseException:
            self.close()
            raise

    def _drafting_by(self, options: LoadOptions) -> Callable[[LoadedModel], Drafter] | None:
        """What makes a drafter of a text for this model, if `options` ask for drafts; it does not hold the model."""
        draft, most, lookup = options.draft_model, options.draft_max, options.lookup
        if draft is None:
            return (lambda target: PromptLookup(lookup)) if lookup else None
        if isinstance(draft, LlamaDraftModel):
            function = draft
            return lambda target: drafter_of(function, target.n_known())
        if isinstance(draft, str | os.PathLike):
            about_text = {key: value for key, value in options.changes.items() if key.startswith("tokenizer.")}
            own = replace(options, n_ctx=self.n_ctx(), shorten=True, changes=about_text, chats=False)
            own = replace(own, draft_model=None, lora=())
            draft = self._draft_model = type(self).from_options(draft, own)
        small = draft
        DraftModel(small, self, most)  # whether they fit
        return lambda target: DraftModel(small, target, most)

    # -- the model --

    @property
    def _parts(self) -> Parts:
        if self._made_of is None:
            raise GGUFError(CLOSED)
        return self._made_of

    @property
    def name(self) -> str:
        """The path of the model's file."""
        return self._name

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The file's metadata, plain Python values by key."""
        return self._parts.metadata

    @property
    def engine(self) -> Engine:
        """The engine below, for those who measure it while nothing else runs."""
        return self.loop.engine

    @property
    def loop(self) -> Loop:
        """The requests that are evaluated."""
        if self._loop is None:
            raise GGUFError(CLOSED)
        return self._loop

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokeniser; raises GGUFError when the file has none that is known."""
        return self._parts.tokenizer.get()

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The model's chat template, None when it has none."""
        return self._parts.template.get()

    def n_ctx(self) -> int:
        """How many tokens the context holds."""
        return self.engine.n_ctx

    def n_vocab(self) -> int:
        """How many tokens the model knows."""
        return self.engine.n_vocab

    def n_known(self) -> int:
        """How many of them have a text; the others are padding at the end, and are never drawn."""
        n_vocab = self.n_vocab()
        return min(self.tokenizer.n_vocab, n_vocab) if self._has_text else n_vocab

    @property
    def _has_text(self) -> bool:
        """Whether the file has a vocabulary; some say that they have none."""
        return self.metadata.get("tokenizer.ggml.model") not in (None, "none", "no_vocab")

    def n_embd(self) -> int:
        """The width of the model."""
        return self.engine.n_embd

    def token_eos(self) -> int:
        """The id of the end-of-text token, -1 without one."""
        return NO_TOKEN if self.tokenizer.eos is None else self.tokenizer.eos

    def token_bos(self) -> int:
        """The id of the beginning-of-text token, -1 without one."""
        return NO_TOKEN if self.tokenizer.bos is None else self.tokenizer.bos

    def token_nl(self) -> int:
        """The id of a line break; without one that of padding, -1 without that either."""
        if not self._has_text:
            return NO_TOKEN
        if self.metadata.get("tokenizer.ggml.model") == "llama":  # whose texts begin with a space
            known = self.tokenizer.vocab.ids
            ids = [known[text] for text in ("<0x0A>", "\n") if text in known]
        else:
            ids = self.tokenizer.encode("\n")
        return ids[0] if ids else self._special_token("padding")

    def token_eot(self) -> int:
        """The id of the end of a turn: what the file says, else a token of a text that is known; -1 without one."""
        said = self._special_token("eot")
        if said != NO_TOKEN or not self._has_text:
            return said
        from ggufpy.tokenizers.vocab import END_OF_TURN

        known = self.tokenizer.vocab.ids
        return next((known[text] for text in END_OF_TURN if text in known), NO_TOKEN)

    def token_cls(self) -> int:
        """The id of the token that begins a text in a model of BERT's kind, else that of the beginning token."""
        return self.token_bos() if self._has_text else NO_TOKEN

    def token_sep(self) -> int:
        """The id of the token that separates texts, -1 without one."""
        sep = self.tokenizer.vocab.sep if self._has_text else None
        return NO_TOKEN if sep is None else sep

    def _special_token(self, name: str) -> int:
        """What the file says of a special token, -1 without one."""
        token = self.metadata.get(f"tokenizer.ggml.{name}_token_id")
        known = isinstance(token, int) and not isinstance(token, bool) and 0 <= token < self.n_vocab()
        return int(token) if known and token is not None else NO_TOKEN

    def n_ctx_train(self) -> int:
        """How many tokens the model was made for."""
        return self.engine.model.plan.context

    def pooling_type(self) -> int:
        """How one vector is made of a text's, by the model: llama.cpp's number (llama_pooling_type), 0 for none."""
        return POOLINGS.index(self.engine.model.plan.pooling or "none")

    @property
    def scales(self) -> tuple[float, ...]:
        """How much each adapter counts in a call that does not say so."""
        return self._parts.scales

    def rescale(self, scales: Sequence[float]) -> None:
        """Has adapters count so in calls that do not say so, from the next one on. Raises GGUFError for another count
        of numbers than there are adapters."""
        if len(scales) != len(self.scales):
            raise GGUFError(f"{len(scales)} scales were given for {len(self.scales)} adapters")
        numbers = tuple(checks.number("scale", scale) for scale in scales)
        self._made_of = replace(self._parts, scales=numbers)

    # -- text and tokens --

    def tokenize(self, text: bytes | str, add_bos: bool = True, special: bool = False) -> list[int]:
        """Token ids of UTF-8 `text`; `add_bos` adds what the model wants around it, `special` reads tags."""
        add, tags = checks.flag("add_bos", add_bos), checks.flag("special", special)
        return self.tokenizer.encode(text, add_special=add, parse_special=tags)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """The bytes of `tokens`, which need not be whole characters; `special` writes control tokens too.

        They are the same whatever came before (`prev_tokens`)."""
        ids = checks.items("tokens", tokens, "a list of token ids (whole numbers)")
        return self.tokenizer.decode_bytes(ids, special=checks.flag("special", special))

    # -- evaluation --

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits after each of `tokens`, float32 (len(tokens), n_vocab), from a fresh context."""
        import numpy as np

        loop, ids = self.loop, self._ids(tokens)
        if len(ids) > self.n_ctx():
            raise GGUFError(f"{len(ids)} tokens are more than the context's {self.n_ctx()}: use a larger n_ctx")
        logits = np.empty((len(ids), self.n_vocab()), np.float32)

        def take(first: int, rows: NDArray[np.float32]) -> None:
            logits[first : first + len(rows)] = rows

        if ids:
            loop.run(Request(ids, take=take, reuse="none", scales=self._parts.scales))
        return logits

    def generate(
        self,
        tokens: Sequence[int],
        sampling: Sampling | None = None,
        *,
        ignore_eos: bool = False,
        context_shift: bool = False,
        keep: int = 0,
        limit: int | None = None,
        guides: Guides | None = None,
        scales: Sequence[float] | None = None,
        reuse: Reuse = "any",
        **options: Any,
    ) -> Stream:
        """An iterator of the ids that follow `tokens`, up to an end token (not yielded) or the context's end.

        `options` are sampling options (`temp=0.0` takes the likeliest token), in place of `sampling`; an
        unknown one raises TypeError. What an earlier call has evaluated of `tokens` is not evaluated again, but as
        `reuse` says: with "alike" not where it was read in another way, so that a seed always gives the same text.
        `limit` is how many ids there may be, `guides` a grammar and functions that change logits, `scales` how much
        each of the model's adapters counts, where that is not what it was loaded with.
        `context_shift`: a full context forgets half of what follows the first `keep` tokens of the prompt (-1:
        all of it; a beginning token is always kept), and the text goes on.
        """
        if sampling is not None and options:
            raise TypeError(f"generate() takes sampling or sampling options, not both: {', '.join(options)}")
        checks.flag("ignore_eos", ignore_eos)
        ends = frozenset() if ignore_eos else self.end_tokens()
        never = self.end_tokens() if ignore_eos else frozenset()
        most = None if limit is None else checks.whole("limit", limit, 1)
        counts = self._parts.scales if scales is None else tuple(scales)
        request = Request(self._ids(tokens), ends=ends, limit=most, reuse=reuse, scales=counts)
        stream = self.loop.stream(request)
        checks.whole("keep", keep, -1)
        if checks.flag("context_shift", context_shift):
            request.keep = self._kept(request.prompt, keep)
        chosen = self.sampling(**options) if sampling is None else sampling
        request.sampler = self._sampler(chosen, never, guides)
        if self._drafting is not None:
            request.drafts = Speculation(self._drafting(self), ends)
        return stream

    def _sampler(self, sampling: Sampling, never: frozenset[int], guides: Guides | None) -> Sampler:
        """What draws the tokens of one text, those of `never` excepted."""
        from ggufpy.generate.sampling import Guides, Sampler, Sampling

        if not isinstance(sampling, Sampling):
            raise GGUFError(f"sampling is {checks.shown(sampling)}; a ggufpy.Sampling is wanted")
        forbidden = tuple((token, float("-inf")) for token in never)
        sampling = replace(sampling, logit_bias=(*sampling.logit_bias, *forbidden))
        guides = guides or Guides()
        if guides.vocabulary is None and self._has_text:
            guides = replace(guides, vocabulary=self.tokenizer)
        return Sampler(sampling, self.n_vocab(), self.n_known(), guides)

    @contextmanager
    def hook(self, name: str, function: Callable[..., Any]) -> Iterator[None]:
        """Within it, `function(values, rows)` sees the activation `name` of every step, and may change it.

        Names are llama.cpp's, as "blk.3.ffn_out" (`activations` has them all); "blk.*.l_out" stands for all that fit.
        `values` are float32, a row for each token: (rows, width), of "result_output" the logits that are drawn from.
        They are there during the call, and may be changed in place; what the function returns, unless None, takes
        their place. `rows.token`, `rows.position` and `rows.sequence` (rows,) say which tokens they are of, `rows.name`
        which activation.

        "blk.3.Qcur", "Kcur" and "Vcur" are (rows, heads, length), turned by position. "blk.3.kq_soft_max" are the
        probabilities of attention, (rows, query heads, positions), of one text a call: column j is its position j, 0
        where a row does not see it (that must stay so). They are computed only where they are hooked; the output of a
        head whose row is changed follows.

        Of several functions of one activation each is given what those before it leave. What was read before the hook
        is read anew within it, and the other way round. Raises GGUFError for a name that the model does not have.
        """
        hooked = self.engine.hooked({name: function})
        with self.loop.alone():
            hooked.__enter__()
        try:
            yield
        finally:
            with nullcontext() if self._loop is None else self._loop.alone():
                hooked.__exit__(None, None, None)

    def activations(self) -> dict[str, tuple[int | None, ...]]:
        """What `hook` can have, in order: by name the shape of a row, None for as many as there are positions."""
        return self.engine.activations()

    def _ids(self, tokens: Sequence[int]) -> list[int]:
        """Plain ints, from a list or an integer array. Raises GGUFError for what is no token of this model."""
        return checks.tokens("tokens", tokens, self.n_vocab())

    def check_prompt(self, tokens: Sequence[int]) -> None:
        """Raise GGUFError unless a text may begin with these tokens."""
        self.loop.check(Request(tokens))

    def _kept(self, tokens: Sequence[int], keep: int) -> int:
        """How many tokens of a prompt a shift keeps; the beginning token is one more (llama.cpp: tools/main)."""
        has_bos = self._has_text and tokens[0] == self.token_bos()
        return len(tokens) if keep < 0 else min(keep + has_bos, len(tokens))

    def sampling(self, **options: Any) -> Sampling:
        """Sampling options in one object, with this model's next seed where none is given."""
        from ggufpy.generate.sampling import Sampling

        chosen = Sampling.from_options(**options)
        chosen.check_tokens(self.n_vocab())
        if chosen.seed not in NEW_SEED:
            return chosen
        return replace(chosen, seed=self._next_seed())

    def _next_seed(self) -> int | None:
        """The seed of a text without one of its own: the last one's successor, None where every text has a new one."""
        from random import Random

        with self._seeding:
            if self._seed is not None:
                self._seed = Random(self._seed).getrandbits(SEED_BITS)
            return self._seed

    def end_tokens(self) -> frozenset[int]:
        """Ids that end a generation; none for a model without a vocabulary."""
        return self.tokenizer.end_tokens if self._has_text else frozenset()

    # -- the end --

    def close(self) -> None:
        """Give back threads, memory and the file; closing twice is fine. Calls of other threads end with GGUFError."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        loop.close()
        self._drafting = None
        draft, self._draft_model = self._draft_model, None
        if draft is not None:
            draft.close()
        parts, self._made_of = self._parts, None  # nothing of it is held: weights, vocabulary, the file
        loading.close_template(parts.template)
        parts.tokenizer.wait()
        for file in (parts.file, *parts.adapters):
            file.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
