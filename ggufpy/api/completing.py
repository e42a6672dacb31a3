"""Completions of a loaded model, with the names that llama-cpp-python and OpenAI users know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any

from ggufpy.api.openai.model import Record
from ggufpy.errors import GGUFError
from ggufpy.generate.stateful import StatefulModel
from ggufpy.support import checks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.api.openai.prompts import Answers, ChatPrompt
    from ggufpy.api.openai.texts import Job
    from ggufpy.api.openai.turns import Turns
    from ggufpy.chat.formats import Format
    from ggufpy.chat.syntax import Syntax
    from ggufpy.chat.tools import Offer
    from ggufpy.generate.loading import LoadOptions, Parts
    from ggufpy.grammar import Constraint, Grammar, Vocabulary
    from ggufpy.tokenizers import Tokenizer

CHAT_TEMPERATURE = 0.2  # llama-cpp-python's default for chats; elsewhere it is that of `ggufpy.Sampling`

MARK = "\N{WHITE SMILING FACE}"


class Completions(StatefulModel):
    """What makes completions. `_chat_format` writes prompts in place of the model's template, if there is one."""

    chat_handler: Callable[..., Any] | None = None  # answers chats in the model's place
    _chat_format: Format | None = None
    _spm_infill = False
    _answers: Answers | None = None
    _turns: Turns | None = None
    _vocabulary: Vocabulary | None = None

    def _setup(self, parts: Parts, seed: int | None, options: LoadOptions) -> None:
        self._making = RLock()  # of what is made with the first request
        super()._setup(parts, seed, options)

    def __call__(self, prompt: str | Sequence[int], max_tokens: int | None = 16, **options: Any) -> Any:
        """`create_completion`."""
        return self.create_completion(prompt, max_tokens=max_tokens, **options)

    def create_completion(
        self,
        prompt: str | Sequence[int] | Sequence[str | Sequence[int]],
        max_tokens: int | None = 16,
        *,
        stream: bool = False,
        **options: Any,
    ) -> Record | Iterator[Record]:
        """Continue `prompt`, a text or token ids: OpenAI's text completion, with `stream` an iterator of chunks.

        It may be a list of those, each with choices of its own: that of prompt i and choice k has the index i * n + k.

        `max_tokens` None or below 1: no limit but the context. Options: `suffix` (fill in before it), `stop` (string
        or strings), `echo`, `logprobs` (how many), `n` choices, `grammar` (a `ggufpy.Grammar`, or GBNF),
        `response_format`, `logits_processor`, `stopping_criteria`, `lora` (how much adapters count, by name),
        `stream_options`, `model`, `user`, and for sampling those of `ggufpy.Sampling` (`temperature`, `top_p`,
        `seed`, ...). Others raise TypeError, values that cannot be GGUFError.
        """
        from ggufpy.api import shape
        from ggufpy.api.openai.text import TextShape

        one_by_one = checks.switch("stream", stream)
        job = self._text_job(prompt, max_tokens, options)
        form = TextShape(self, job.asked)
        return shape.chunks(job, form) if one_by_one else shape.whole(job, form)

    def create_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int | None = None,
        *,
        stream: bool = False,
        **options: Any,
    ) -> Record | Iterator[Record]:
        """Answer `messages` ({"role", "content"} each) through the model's chat template, as OpenAI does.

        Objects of the openai package count as such.
        Contents are texts or text parts, and a message may hold `tool_calls`; they are brought into the form
        that the template takes. `tools` and `tool_choice` offer functions, whose calls come as `tool_calls`; thoughts
        come as `reasoning_content`. `response_format` says what the answer looks like, and is enforced. Further
        options as `create_completion`, but `logprobs` is a bool and `top_logprobs` a count, and
        `chat_template_kwargs` go to the template. Raises GGUFError for messages of another form and for a model
        without a template.
        """
        from ggufpy.api import shape
        from ggufpy.api.openai.chat import ChatShape

        if self.chat_handler is not None:
            handled: Record | Iterator[Record] = self.chat_handler(
                llama=self, messages=messages, max_tokens=max_tokens, stream=stream, **options
            )
            return handled
        one_by_one = checks.switch("stream", stream)
        job = self._chat_job(messages, max_tokens, options)
        form = ChatShape(self, job.asked)
        return shape.chunks(job, form) if one_by_one else shape.whole(job, form)

    def _text_job(self, prompt: str | Sequence[Any], max_tokens: int | None, options: Record) -> Job:
        from ggufpy.api.openai import asked, texts

        return texts.Job(self, asked.text_request(self, prompt, max_tokens, options))

    def _chat_job(self, messages: Sequence[Mapping[str, Any]], max_tokens: int | None, options: Record) -> Job:
        from ggufpy.api.openai import asked, texts

        if options.get("temperature") is None and options.get("temp") is None:
            options = {**options, "temperature": CHAT_TEMPERATURE}
            options.pop("temp", None)
        return texts.Job(self, asked.chat_request(self, messages, max_tokens, options))

    def close(self) -> None:
        """See Llama."""
        super().close()
        self._vocabulary = self._answers = self._turns = None

    # -- what requests are made of --

    @property
    def spm_infill(self) -> bool:
        """Whether what is behind comes first where the model fills in."""
        return self._spm_infill

    def n_parallel(self) -> int:
        """How many texts are evaluated together."""
        return self.engine.parallel

    def chat_prompt(
        self, messages: Sequence[Mapping[str, Any]], offer: Offer | None = None, **variables: Any
    ) -> ChatPrompt:
        """The prompt of a chat, written by the model's template or the chat format."""
        from ggufpy.api.openai import prompts

        tools = None if offer is None or not offer.chosen else list(offer.tools)
        form = self._chat_format
        if form is not None:
            return prompts.chat_prompt(self.tokenizer, form.render(messages, tools=tools), form.stops, self.turns)
        template = self.chat_template
        if template is None:
            raise GGUFError(
                "the model has no chat template: use create_completion (/v1/completions; on the command line: --raw), "
                'or name one with chat_format ("chatml")'
            )
        from ggufpy.chat import generic
        from ggufpy.chat.syntax.generic import NAME

        if generic.is_about_tools(messages, offer) and (syntax := self.chat_answers.syntax).name == NAME:
            messages, tools = generic.told(syntax, messages, offer), None
        text = template.render(messages, **{"add_generation_prompt": True, **variables, "tools": tools})
        return prompts.chat_prompt(self.tokenizer, text, (), self.turns)

    @property
    def turns(self) -> Turns:
        """What its chats have said."""
        with self._making:
            if self._turns is None:
                from ggufpy.api.openai.turns import Turns

                self._turns = Turns()
            return self._turns

    @property
    def chat_answers(self) -> Answers:
        """How answers are read: what the template or the chat format shows of calls of tools and thoughts."""
        with self._making:
            if self._answers is None:
                from ggufpy.api.openai.prompts import answers_of

                self._answers = answers_of(self.tokenizer, self._syntax())
            return self._answers

    def _syntax(self) -> Syntax:
        from ggufpy.chat.syntax import syntax_of

        if self._chat_format is not None:
            return self._chat_format.syntax
        template = self.chat_template
        assert template is not None
        return syntax_of(template, self.metadata.get("general.architecture"))

    def chat_tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The prompt tokens of a chat: the rendered template, with a beginning token if one is due."""
        return self.chat_prompt(messages).tokens

    def infill_tokens(self, prompt: str, suffix: str) -> list[int]:
        """The tokens that ask for what comes between two texts. Raises GGUFError for a model that cannot."""
        from ggufpy.tokenizers.fill import fill_tokens

        tokenizer = self.tokenizer
        fill = fill_tokens(tokenizer.vocab, self.metadata)
        tokens = fill.prompt(tokenizer.encode(prompt), _going_on(tokenizer, suffix), self._spm_infill)
        return [tokenizer.bos, *tokens] if tokenizer.add_bos and tokenizer.bos is not None else tokens

    def constraint(self, grammar: Grammar, after: str | None = None) -> Constraint:
        """What a grammar allows in one text, behind the text `after` if that is given."""
        from ggufpy.grammar import Constraint, Vocabulary

        with self._making:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(self.tokenizer, self.n_vocab())
        return Constraint(grammar, self._vocabulary, after)

    def _constraint(self, grammar: object) -> Constraint:
        from ggufpy.api.openai.formats import answer_grammar

        known = answer_grammar(None, grammar)
        assert known is not None
        return self.constraint(known)

    def adapter_scales(self, lora: object) -> tuple[float, ...] | None:
        """How much each adapter counts in a call: by its path, as it was loaded, or by its number; others do not.

        None, which is where nothing is asked for, is what the model was loaded with.
        """
        if lora is None:
            return None
        names = self.adapters
        scales = [0.0] * len(names)
        for name, scale in _pairs(lora):
            places = [i for i, known in enumerate(names) if name in (known, i, str(i))]
            if not places:
                raise GGUFError(f"lora names {checks.shown(name)}; the model has {list(names) or 'no adapters'}")
            scales[places[0]] = checks.number(f"the scale of {name}", scale)
        return tuple(scales)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The files of the adapters that are loaded, in order."""
        return self._parts.adapter_names

    def prompt_logprobs(self, tokens: Sequence[int], count: int) -> list[tuple[float, list[tuple[int, float]]]]:
        """Behind each token but the last of a prompt: the log probability of the next, and the likeliest ones."""
        from ggufpy.api.openai.texts import top_logprobs
        from ggufpy.runtime.request import Request

        made: list[tuple[float, list[tuple[int, float]]]] = []
        known = self.n_known()

        def take(first: int, rows: NDArray[np.float32]) -> None:
            for i, row in enumerate(rows[: len(tokens) - 1 - first]):
                made.append(top_logprobs(row[:known], tokens[first + i + 1], count))

        self.loop.run(Request(tokens, take=take, reuse="none", scales=self._parts.scales))
        return made


def _going_on(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text that is no beginning, without the space that some vocabularies put before the first word:
    behind a character that nothing joins (Code Llama's encode_infilling, and llama-cpp-python)."""
    if not tokenizer.vocab.add_space_prefix:
        return tokenizer.encode(text)
    return tokenizer.encode(MARK + text)[len(tokenizer.encode(MARK)) :]


def _pairs(lora: object) -> list[tuple[Any, Any]]:
    """Names and scales: a mapping, or a list of pairs or of OpenAI-style {"id", "scale"}."""
    if isinstance(lora, Mapping):
        return list(lora.items())
    made = []
    for item in checks.items("lora", lora, "a mapping of adapters to numbers"):
        if isinstance(item, Mapping) and set(item) == {"id", "scale"}:
            made.append((item["id"], item["scale"]))
        elif isinstance(item, tuple | list) and len(item) == 2:
            made.append((item[0], item[1]))
        else:
            raise GGUFError(f"lora has {checks.shown(item)}; pairs of an adapter and a number are wanted")
    return made
