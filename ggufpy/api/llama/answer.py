"""llama-server's completions, whole and streamed.

A text's last record has everything about it; the records of a stream before it have what has come. Names and order are
those of llama.cpp's tools/server/server-task.cpp (server_task_result_cmpl_final and _partial).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ggufpy.api.llama.fields import Fields
from ggufpy.api.llama.limits import Limits
from ggufpy.api.llama.pieces import of_token
from ggufpy.api.llama.settings import full_settings
from ggufpy.api.openai.texts import Delta
from ggufpy.api.shape import Spent, TextSpent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.api.asynchronous import AsyncCompletions
    from ggufpy.api.openai.asked import Asked

Record = dict[str, Any]
Draw = tuple["NDArray[np.int64]", "NDArray[np.float64]"]  # ids and their probabilities, likeliest first
LEAST = -3.4028234663852886e38  # a log probability of -inf, which JSON does not have


class Watched:
    """What the texts of a call are watched by, each in the order of their numbers: their limits, and where it is
    wanted what their tokens were drawn from, which is there before a token is told."""

    def __init__(self) -> None:
        self.limits: list[Limits] = []
        self.draws: list[deque[Draw]] = []

    def another(self) -> Callable[[NDArray[np.int64], NDArray[np.float64]], None]:
        """What notes the draws of one more text."""
        draws: deque[Draw] = deque()
        self.draws.append(draws)
        return lambda ids, shares: draws.append((ids, shares))


class CompletionShape:
    """How a completion is told. With `several` the whole answer is a list."""

    def __init__(self, llm: AsyncCompletions, asked: Asked, fields: Fields, watched: Watched, several: bool) -> None:
        self._llm, self._asked, self._fields, self._watched = llm, asked, fields, watched
        self._several = several
        self._contents = ["" for _ in asked.samplings]
        self._finish: list[str | None] = [None for _ in asked.samplings]
        self._counts = [0 for _ in asked.samplings]  # tokens that have been told
        self._began: set[int] = set()
        self._spent: Callable[[int], TextSpent] | None = None

    def account(self, spent: Callable[[int], TextSpent]) -> None:
        """Where it is found what a text has taken so far."""
        self._spent = spent

    def prepare(self) -> None:
        """See `Shape`: there is nothing."""

    def begin(self) -> Iterator[Record]:
        """See `Shape`: a stream begins with its first token."""
        return iter(())

    def delta(self, number: int, delta: Delta) -> Iterator[Record]:
        """See `Shape`. A text's last record has what it took."""
        if self._fields.switches.get("return_progress") and number not in self._began:
            yield self._progress(number)
        self._began.add(number)
        self._told(number, delta)
        if delta.token is not None:
            yield self._partial(number, delta)
        if delta.finish is not None:
            yield self._final(number, delta.text if delta.token is None else "", [], None)

    def end(self, spent: Spent) -> Iterator[Record]:
        """See `Shape`: each text has had its last record."""
        return iter(())

    def whole(self, said: Sequence[Sequence[Delta]], spent: Spent) -> Any:
        """See `Shape`: one record, or a list of them."""
        self._spent = spent.texts.__getitem__
        made = []
        for number, deltas in enumerate(said):
            for delta in deltas:
                self._told(number, delta)
            tokens = [delta.token for delta in deltas if delta.token is not None]
            each = (self._probability(number, delta) for delta in deltas)
            listed = [probability for probability in each if probability is not None]
            kept = tokens if self._fields.switches.get("return_tokens") else []
            made.append(self._final(number, self._contents[number], kept, listed or None))
        return made if self._several else made[0]

    def _told(self, number: int, delta: Delta) -> None:
        """Notes a delta."""
        self._finish[number] = delta.finish or self._finish[number]
        self._contents[number] += delta.text
        self._counts[number] += delta.token is not None

    # -- records --

    def _partial(self, number: int, delta: Delta) -> Record:
        text = self._of(number)
        record: Record = {
            "index": number,
            "content": delta.text,
            "tokens": [] if delta.token is None else [delta.token],
            "stop": False,
            "id_slot": -1 if text.place is None else text.place,
            "tokens_predicted": text.completion,
            "tokens_evaluated": text.prompt,
        }
        if self._fields.switches.get("timings_per_token"):
            record["timings"] = timings(text)
        probability = None if delta.token is None else self._probability(number, delta)
        if probability is not None:
            record["completion_probabilities"] = [probability]
        return record

    def _progress(self, number: int) -> Record:
        """How much of the prompt is read, which is all of it once something has come."""
        text = self._of(number)
        progress = {
            "total": text.prompt, "cache": text.cached, "processed": text.prompt,
            "time_ms": round(text.prompt_seconds * 1000),
        }  # fmt: skip
        nothing = Delta("")
        return {**self._partial(number, nothing), "prompt_progress": progress}

    def _final(self, number: int, content: str, tokens: list[int], listed: list[Record] | None) -> Record:
        asked, text = self._asked, self._of(number)
        stop_type, word = self._why(number)
        predicted = text.completion
        held = text.prompt + predicted
        record: Record = {
            "index": number,
            "content": content,
            "tokens": tokens,
            "id_slot": -1 if text.place is None else text.place,
            "stop": True,
            "model": asked.model,
            "tokens_predicted": predicted,
            "tokens_evaluated": text.prompt,
            "generation_settings": self._settings(asked, number),
            "prompt": self._llm.tokenizer.decode(asked.prompt(number).tokens, special=True),
            "has_new_line": "\n" in self._contents[number],
            "truncated": stop_type == "limit" and held >= self._llm.n_ctx(),
            "stop_type": stop_type,
            "stopping_word": word,
            "tokens_cached": max(held - 1, text.prompt),
            "timings": timings(text),
        }
        if listed is not None:
            record["completion_probabilities"] = listed
        return picked(record, self._fields.response_fields) if self._fields.response_fields else record

    def _of(self, number: int) -> TextSpent:
        """What a text has taken so far; of its tokens those count that have been told."""
        assert self._spent is not None
        return replace(self._spent(number), completion=self._counts[number])

    def _why(self, number: int) -> tuple[str, str]:
        """Why a text has ended, and the string at which it has."""
        limits = self._watched.limits[number]
        if limits.hit:
            return limits.stop_type, limits.found or ""
        return {"stop": "eos", "length": "limit"}.get(self._finish[number] or "", "none"), ""

    def _settings(self, asked: Asked, number: int) -> Record:
        read = self._fields
        given: Record = {**read.numbers, **read.switches, "n_predict": read.n_predict}
        if "grammar" in read.given:
            given["grammar"] = read.given["grammar"]
        stream = read.switches.get("stream", False)
        return full_settings(asked.samplings[number], asked, stream, given)

    # -- probabilities --

    def _probability(self, number: int, delta: Delta) -> Record | None:
        """How likely a token was, and the likeliest ones; None where that is not wanted."""
        count, token = self._fields.n_probs, delta.token
        if not count or token is None:
            return None
        if not self._watched.draws:
            top = [{**of_token(self._llm, other), "logprob": _finite(value)} for other, value in delta.top]
            return {**of_token(self._llm, token), "logprob": _finite(delta.logprob), "top_logprobs": top}
        ids, shares = self._watched.draws[number].popleft()
        places = (ids == token).nonzero()[0]
        of_it = float(shares[places[0]]) if len(places) else 0.0
        pairs = zip(ids[:count].tolist(), shares[:count].tolist(), strict=True)
        top = [{**of_token(self._llm, other), "prob": share} for other, share in pairs if share > 0]
        return {**of_token(self._llm, token), "prob": of_it, "top_probs": top}


def timings(text: TextSpent) -> Record:
    """How long a text took, in milliseconds, and tokens a second; the first token counts as the prompt's."""
    read = text.prompt - text.cached
    prompt_ms, predicted_ms = text.prompt_seconds * 1000, text.decode_seconds * 1000
    return {
        "cache_n": text.cached,
        "prompt_n": read,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / read if read else 0.0,
        "prompt_per_second": read / text.prompt_seconds if text.prompt_seconds > 0 else 0.0,
        "predicted_n": text.completion,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": predicted_ms / text.completion if text.completion else 0.0,
        "predicted_per_second": text.completion / text.decode_seconds if text.decode_seconds > 0 else 0.0,
    }


def picked(record: Mapping[str, Any], names: Sequence[str]) -> Record:
    """The fields of these names, "a/b" for b of a, each under its name; those that there are not are left out."""
    made: Record = {}
    for name in names:
        value: Any = record
        for part in name.split("/"):
            if not isinstance(value, Mapping) or part not in value:
                break
            value = value[part]
        else:
            made[name] = value
    return made


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)
