"""`Llama`: a loaded model as an application holds it, with the names that llama-cpp-python users know.

In: a model's name and options. Out: tokens, logits, text, and OpenAI-shaped completions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError
from ggufpy.generate import loading
from ggufpy.generate.generation import Context, Generation
from ggufpy.generate.loading import LoadOptions, Parts
from ggufpy.generate.speculation import Drafter, DraftModel, PromptLookup
from ggufpy.support import checks, console

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.chat import ChatTemplate
    from ggufpy.generate.sampling import Sampling
    from ggufpy.runtime import Session
    from ggufpy.tokenizers import Tokenizer

NEW_SEED = (None, -1, 0xFFFFFFFF)  # seeds that mean another one every time, as llama.cpp has it


class Llama:
    """A loaded model. `model_path` is a path, a known name ("smollm2") or "hf:owner/repo[:file-or-quant]".

    One object is one context: while one thread uses it, for a call or for a generation that has not ended, calls of
    others are refused with GGUFError. A call that is refused, for this or any other reason, changes nothing. Within a
    thread a new call ends a generation that has not ended. Raises GGUFError for whatever the model or a call cannot do.
    `seed` makes the object's sampled output repeatable; `verbose` reports on stderr.

    `lookup` (tokens at a time, as in 8) and `draft_model` (a smaller model of the same vocabulary: a name, or a
    `Llama` that stays yours to close) make text come faster where it can be guessed, and the text is the same.
    `n_parallel` is how many texts `session.engine` can hold at once; the key-value cache is kept as `cache_type_k` and
    `cache_type_v` say: f16, bf16, q8_0 or q4_0.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        n_ctx: int = 0,
        n_threads: int | None = None,
        n_batch: int = 512,
        n_gpu_layers: int = 0,
        seed: int | None = None,
        verbose: bool = False,
        *,
        lookup: int = 0,
        draft_model: str | os.PathLike[str] | Llama | None = None,
        n_parallel: int = 1,
        cache_type_k: str = "f16",
        cache_type_v: str = "f16",
    ) -> None:
        from ggufpy.support.progress import Progress

        options = LoadOptions(n_ctx, n_threads, n_batch, n_gpu_layers, cache_type_k, cache_type_v, n_parallel)
        options = replace(options, lookup=lookup, draft_model=draft_model)
        checks.path("model_path", model_path, "the path of a .gguf file, a known name or hf:owner/repo")
        checks.flag("verbose", verbose)
        if not isinstance(draft_model, Llama | None):
            checks.path("draft_model", draft_model)
        seed = checks.seed("seed", seed)
        with Progress() as progress:
            if verbose or console.is_terminal("stderr"):
                options = replace(options, progress=progress)
            self._setup(loading.load_parts(model_path, options), seed, options)
        if verbose:
            s = self._parts.session
            how = f"{s.type_name}, {s.n_threads} threads, {s.isa}, context {s.n_ctx}"
            console.note(f"ggufpy: {self._parts.name}: {how}")

    @classmethod
    def from_options(
        cls, model: str | os.PathLike[str], options: LoadOptions, seed: int | None = None
    ) -> Llama:
        """A model with everything that the command line can ask for."""
        return cls.from_parts(loading.load_parts(model, options), seed, options)

    @classmethod
    def from_parts(cls, parts: Parts, seed: int | None = None, options: LoadOptions | None = None) -> Llama:
        """A `Llama` around an engine and tokeniser that exist already; of `options` only drafting counts."""
        self = cls.__new__(cls)
        self._setup(parts, seed, options or LoadOptions())
        return self

    def _setup(self, parts: Parts, seed: int | None, options: LoadOptions) -> None:
        self._parts = parts
        self._context: Context | None = Context(parts.session)
        self._draft_model: Llama | None = None  # one that was opened here
        self._seeds: Iterator[int] | None = None
        if seed not in NEW_SEED:
            from random import Random

            source = Random(seed)
            self._seeds = iter(lambda: source.getrandbits(32), None)
        try:
            self._drafter = self._make_drafter(options)
        except BaseException:
            self.close()
            raise

    def _make_drafter(self, options: LoadOptions) -> Drafter | None:
        """What guesses tokens for this model, if `options` ask for it."""
        draft = options.draft_model
        if draft is None:
            return PromptLookup(options.lookup) if options.lookup else None
        if not isinstance(draft, Llama):
            own = replace(options, n_ctx=self.n_ctx(), shorten=True, n_parallel=1, draft_model=None)
            draft = self._draft_model = Llama.from_options(draft, own)
        return DraftModel(draft, self, options.draft_max)

    # -- the model --

    @property
    def name(self) -> str:
        """The path of the model's file."""
        return self._parts.name

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The file's metadata, plain Python values by key."""
        return self._parts.file.metadata

    @property
    def session(self) -> Session:
        """The engine below, for those who measure it."""
        return self._live().session

    @property
    def context(self) -> Context:
        """What is evaluated, for those who take tokens back or work in step with another model."""
        return self._live()

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
        return self.session.n_ctx

    def n_vocab(self) -> int:
        """How many tokens the model knows."""
        return self.session.n_vocab

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
        return self.session.n_embd

    @property
    def n_tokens(self) -> int:
        """How many tokens are evaluated now."""
        return self._live().n_tokens

    def token_eos(self) -> int:
        """The id of the end-of-text token, -1 without one."""
        return -1 if self.tokenizer.eos is None else self.tokenizer.eos

    def token_bos(self) -> int:
        """The id of the beginning-of-text token, -1 without one."""
        return -1 if self.tokenizer.bos is None else self.tokenizer.bos

    # -- text and tokens --

    def tokenize(self, text: bytes | str, add_bos: bool = True, special: bool = False) -> list[int]:
        """Token ids of UTF-8 `text`; `add_bos` adds what the model wants around it, `special` reads tags."""
        add, tags = checks.flag("add_bos", add_bos), checks.flag("special", special)
        return self.tokenizer.encode(text, add_special=add, parse_special=tags)

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """The bytes of `tokens`, which need not be whole characters."""
        return self.tokenizer.decode_bytes(checks.items("tokens", tokens, "a list of token ids (whole numbers)"))

    # -- evaluation --

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate `tokens` after what is evaluated already; raises GGUFError when the context is full."""
        context = self._live()
        with context.owner.held():
            ids = self._ids(tokens)
            context.check_room(len(ids))
            context.take()
            context.extend(ids)

    def reset(self) -> None:
        """Forget everything that was evaluated."""
        context = self._live()
        with context.owner.held():
            context.take()
            context.reset()

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits after each of `tokens`, float32 (len(tokens), n_vocab), from a fresh context."""
        context = self._live()
        with context.owner.held():
            return context.logits(self._ids(tokens))

    def generate(
        self,
        tokens: Sequence[int],
        sampling: Sampling | None = None,
        *,
        ignore_eos: bool = False,
        context_shift: bool = False,
        keep: int = 0,
        **options: Any,
    ) -> Generation:
        """An iterator of the ids that follow `tokens`, up to an end token (not yielded) or the context's end.

        `options` are sampling options (`temp=0.0` takes the likeliest token), in place of `sampling`; an
        unknown one raises TypeError. What the context already holds of `tokens` is not evaluated again.
        `context_shift`: a full context forgets half of what follows the first `keep` tokens of the prompt (-1:
        all of it; a beginning token is always kept), and the text goes on.
        """
        if sampling is not None and options:
            raise TypeError(f"generate() takes sampling or sampling options, not both: {', '.join(options)}")
        context = self._live()
        with context.owner.held():
            ids = self._ids(tokens)
            context.check_prompt(len(ids))
            checks.flag("ignore_eos", ignore_eos)
            checks.whole("keep", keep, -1)
            kept = self._kept(ids, keep) if checks.flag("context_shift", context_shift) else None
            if sampling is None:
                sampling = self.sampling(**options)
            return self._generation(ids, sampling, ignore_eos, kept)

    def _generation(self, ids: list[int], sampling: Sampling, ignore_eos: bool, kept: int | None) -> Generation:
        from ggufpy.generate.sampling import Sampler, Sampling

        if not isinstance(sampling, Sampling):
            raise GGUFError(f"sampling is {checks.shown(sampling)}; a ggufpy.Sampling is wanted")
        ends = self.end_tokens()
        if ignore_eos:
            never = tuple((token, float("-inf")) for token in ends)
            sampling, ends = replace(sampling, logit_bias=(*sampling.logit_bias, *never)), frozenset()
        sampler = Sampler(sampling, self.n_vocab(), self.n_known())
        return Generation(self._live(), ids, sampler, ends, self._drafter, kept)

    def _ids(self, tokens: Sequence[int]) -> list[int]:
        """Plain ints, from a list or an integer array. Raises GGUFError for what is no token of this model."""
        return checks.tokens("tokens", tokens, self.n_vocab())

    def _kept(self, tokens: list[int], keep: int) -> int:
        """How many tokens of a prompt a shift keeps; the beginning token is one more (llama.cpp: tools/main)."""
        has_bos = self._has_text and tokens[:1] == [self.token_bos()]
        return len(tokens) if keep < 0 else min(keep + has_bos, len(tokens))

    def sampling(self, **options: Any) -> Sampling:
        """Sampling options in one object, with this model's next seed where none is given."""
        from ggufpy.generate.sampling import Sampling

        chosen = Sampling.from_options(**options)
        chosen.check_tokens(self.n_vocab())
        if chosen.seed not in NEW_SEED:
            return chosen
        return replace(chosen, seed=None if self._seeds is None else next(self._seeds))

    def end_tokens(self) -> frozenset[int]:
        """Ids that end a generation; none for a model without a vocabulary."""
        return self.tokenizer.end_tokens if self._has_text else frozenset()

    # -- completions, in OpenAI's shapes --

    def __call__(self, prompt: str, max_tokens: int | None = 16, **options: Any) -> Any:
        """`create_completion`."""
        return self.create_completion(prompt, max_tokens, **options)

    def create_completion(
        self,
        prompt: str | Sequence[int],
        max_tokens: int | None = 16,
        *,
        stream: bool = False,
        **options: Any,
    ) -> dict[str, Any] | Iterator[dict[str, Any]]:
        """Continue `prompt`: OpenAI's text completion as a dict, with `stream` an iterator of chunks.

        `max_tokens` None or below 1: no limit but the context. Options: `stop` (string or strings), `echo`,
        `logprobs` (how many), `model`, and for sampling those of `ggufpy.Sampling` (`temperature`, `top_p`,
        `seed`, ...). Others raise TypeError.
        """

        from ggufpy.api import openai

        with self._live().owner.held():
            one_by_one = checks.switch("stream", stream)
            request = openai.text_request(self, prompt, max_tokens, options)
            generation = self.generate(request.tokens, request.sampling)
            if not one_by_one:
                return openai.whole_text(self, request, generation)
        return openai.text_chunks(self, request, generation)

    def create_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int | None = None,
        *,
        stream: bool = False,
        **options: Any,
    ) -> dict[str, Any] | Iterator[dict[str, Any]]:
        """Answer `messages` ({"role", "content"} each) through the model's chat template, as OpenAI does.

        Contents are texts or text parts, and a message may hold `tool_calls`; they are brought into the form
        that the template takes. Options as `create_completion`, but `logprobs` is a bool and `top_logprobs` a
        count. Raises GGUFError for messages of another form and for a model without a template.
        """

        from ggufpy.api import openai

        with self._live().owner.held():
            one_by_one = checks.switch("stream", stream)
            request = openai.chat_request(self, messages, max_tokens, options)
            generation = self.generate(request.tokens, request.sampling)
            if not one_by_one:
                return openai.whole_chat(self, request, generation)
        return openai.chat_chunks(self, request, generation)

    def chat_tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The prompt tokens of a chat: the rendered template, with a beginning token if one is due."""
        template = self.chat_template
        if template is None:
            raise GGUFError(
                "the model has no chat template: use create_completion (on the command line: --raw)"
            )
        tokenizer = self.tokenizer
        text = template.render(messages, add_generation_prompt=True)
        tokens = tokenizer.encode(text, add_special=False, parse_special=True)
        if tokenizer.add_bos and tokenizer.bos is not None and tokens[:1] != [tokenizer.bos]:
            tokens = [tokenizer.bos, *tokens]
        return tokens

    # -- the end --

    def close(self) -> None:
        """Give back threads, memory and the file; closing twice is fine.

        Raises GGUFError, with nothing closed, while another thread is at work with it.
        """
        if self._context is None:
            return
        self._context.owner.close()
        self._context = None
        if self._draft_model is not None:
            self._draft_model.close()
        self._parts.template.wait()
        self._parts.tokenizer.wait()
        self._parts.session.close()
        self._parts.file.close()

    def __enter__(self) -> Llama:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _live(self) -> Context:
        if self._context is None:
            raise GGUFError("this model is closed: open it again with Llama(...)")
        return self._context
