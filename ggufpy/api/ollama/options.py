"""ollama's options: from its names, defaults and meanings to sampling options and a limit.

Defaults are those of `DefaultOptions` in ollama's api/types.go, where they differ from llama.cpp's.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

from ggufpy.api.ollama import fields
from ggufpy.errors import GGUFError
from ggufpy.support import checks

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.0, "typical_p": 1.0, "repeat_last_n": 64,
     "repeat_penalty": 1.1}
)  # fmt: skip
_WHOLE = ("top_k", "repeat_last_n", "mirostat", "seed", "num_predict", "num_ctx", "num_keep", "num_batch", "num_gpu",
          "main_gpu", "num_thread")  # fmt: skip
_FLAGS = ("penalize_newline", "low_vram", "f16_kv", "use_mmap", "use_mlock", "logits_all", "vocab_only",
          "embedding_only", "numa")  # fmt: skip
_SAMPLING = (*DEFAULTS, "presence_penalty", "frequency_penalty", "mirostat", "mirostat_tau", "mirostat_eta", "seed")
MOST_STOPS, MOST_STOP = 256, 4096  # strings, and characters of one: each is looked for with every token
_MOST_TEMPERATURE = 1e4
_LARGEST = 1 << 53  # of a number that JSON's readers agree about


class Sized(Protocol):
    """A model that is served."""

    @property
    def metadata(self) -> Mapping[str, Any]: ...
    def n_ctx(self) -> int: ...


def checked(options: object) -> dict[str, Any]:
    """Options by name, those that are null left out; of whole numbers 5.0 counts as 5, as JSON has it.

    Raises GGUFError for an unknown name, and for a value of another type.
    """
    if options is None:
        return {}
    given = {str(name): value for name, value in checks.mapping("options", options).items() if value is not None}
    fields.check("options", given)
    for name, value in given.items():
        if name == "stop":
            continue
        if name in _FLAGS:
            checks.flag(f"options.{name}", value)
            continue
        number = checks.number(f"options.{name}", value)
        if name in _WHOLE:
            if number != int(number) or abs(number) > _LARGEST:
                given[name] = checks.whole(f"options.{name}", value)  # all bits of a large whole number
            else:
                given[name] = int(number)
    _refuse(given)
    return given


def _refuse(given: Mapping[str, Any]) -> None:
    """Raises GGUFError for values that cannot be honoured."""
    if given.get("penalize_newline") is False:
        raise GGUFError("options.penalize_newline is false, and newlines count as other tokens do: leave it out")
    if given.get("tfs_z", 1) != 1:
        raise GGUFError("options.tfs_z is not 1, and llama.cpp has dropped it: leave it out, or take min_p")
    if not 0 <= given.get("temperature", 0) <= _MOST_TEMPERATURE:
        raise GGUFError(f"options.temperature is {given['temperature']}, and must be 0 or more (1 is much)")
    if given.get("num_predict", 0) < -2:
        raise GGUFError(f"options.num_predict is {given['num_predict']}, and must be a number of tokens, -1 or -2")
    if given.get("num_ctx", 1) < 1:
        raise GGUFError(f"options.num_ctx is {given['num_ctx']}, and must be a number of tokens")


def sampling(options: object, llm: Sized) -> tuple[dict[str, Any], int | None]:
    """Sampling options with ollama's defaults and stop strings, and how many tokens may come (None: no limit).

    Raises GGUFError for what cannot be honoured.
    """
    given = checked(options)
    _check_context(given.get("num_ctx", 1), llm)
    made = {**DEFAULTS, **{name: given[name] for name in _SAMPLING if name in given}}
    if "stop" in given:
        made["stop"] = _stops(given["stop"])
    limit = given.get("num_predict", -1)
    return made, limit if limit > 0 else None


def _stops(given: object) -> list[str]:
    """Stop strings, empty ones left out."""
    texts = [given] if isinstance(given, str) else checks.items("options.stop", given, "a text or a list of texts")
    if len(texts) > MOST_STOPS:
        raise GGUFError(f"options.stop has {len(texts):,} texts, and may have {MOST_STOPS}")
    for i, text in enumerate(texts):
        if len(checks.text(f"options.stop[{i}]", text)) > MOST_STOP:
            raise GGUFError(f"options.stop[{i}] has {len(text):,} characters, and may have {MOST_STOP:,}")
    return [text for text in texts if text]


def _check_context(wanted: int, llm: Sized) -> None:
    """Raises GGUFError where more context is wanted than there is and the model could have it. What is more than the
    model was made for becomes that, as with ollama."""
    served = llm.n_ctx()
    architecture = llm.metadata.get("general.architecture")
    own = llm.metadata.get(f"{architecture}.context_length")
    most = min(wanted, own) if isinstance(own, int) and own > 0 else wanted
    if most > served:
        told = f"leave it out, or start the server with a context of {most} (ggufpy serve -c {most})"
        raise GGUFError(f"options.num_ctx is {wanted}, and the model is served with {served}: {told}")
