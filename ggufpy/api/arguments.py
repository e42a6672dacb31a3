"""Arguments of `llama_cpp.Llama` that mean something else here, or nothing: each has its line.

In: what was given by name. Out: changes of the file's metadata, cache types, pooling; warnings by name for the rest.
Names, defaults and numbers are those of llama-cpp-python 0.3.36 (llama_cpp/llama.py) and include/llama.h.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ggufpy.backends.options import GpuLayers, Layers
from ggufpy.errors import GGUFError
from ggufpy.support import checks

POOLINGS = MappingProxyType({-1: None, 0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"})
CACHE_TYPES = MappingProxyType({1: "f16", 2: "q4_0", 8: "q8_0", 30: "bf16"})
ROPE_SCALINGS = MappingProxyType({-1: None, 0: "none", 1: "linear", 2: "yarn", 3: "longrope"})

# Nothing to do: what they ask for is so here in any case, or has no effect on what comes.
NO_EFFECT = MappingProxyType(
    {
        "flash_attn": "attention is always computed in one pass",
        "offload_kqv": "a layer's cache is where the layer is",
        "op_offload": "layers are computed where they are",
        "split_mode": "layers are spread whole, by tensor_split",
        "n_ubatch": "n_batch says how many tokens a step has",
        "no_perf": "nothing is timed unless it is asked for",
        "swa_full": "windows keep what they need",
    }
)
# What was asked for is not done: whoever gives another value than the default is told so.
WARNED: Mapping[str, tuple[Any, str]] = MappingProxyType(
    {
        "use_mmap": (True, "files are always mapped"),
        "use_mlock": (False, "memory is not locked"),
        "n_threads_batch": (None, "prompts take as many threads as n_threads says"),
        "attention_type": (-1, "what tokens see is as the model says"),
        "lora_base": (None, "adapters are added to the model that runs"),
        "numa": (False, "threads stay where the system puts them"),
        "tokenizer": (None, "the tokenizer is the file's own"),
        # of earlier versions of llama-cpp-python, which later ones pass over
        **dict.fromkeys(("f16_kv", "mul_mat_q", "low_vram"), (None, "llama.cpp has dropped it")),
        **dict.fromkeys(("n_gqa", "rms_norm_eps", "n_parts"), (None, "the file says so itself")),
    }
)
# Metadata that arguments stand for, and the value that leaves the file's own.
_KEYS: Mapping[str, tuple[str, float]] = MappingProxyType(
    {
        "rope_freq_base": ("{arch}.rope.freq_base", 0.0),
        "yarn_ext_factor": ("{arch}.rope.scaling.yarn_ext_factor", -1.0),
        "yarn_attn_factor": ("{arch}.rope.scaling.yarn_attn_factor", 1.0),
        "yarn_beta_fast": ("{arch}.rope.scaling.yarn_beta_fast", 32.0),
        "yarn_beta_slow": ("{arch}.rope.scaling.yarn_beta_slow", 1.0),
    }
)
ROPE = ("rope_scaling_type", "rope_freq_scale", "yarn_orig_ctx", *_KEYS)
KNOWN = frozenset({*NO_EFFECT, *WARNED, *ROPE, "logits_all"})


def check_names(given: Mapping[str, Any], known: frozenset[str]) -> None:
    """Raise TypeError for the name of no argument, with the nearest that there is."""
    for name in given:
        if name not in KNOWN:
            near = difflib.get_close_matches(name, [*KNOWN, *known], 1)
            raise TypeError(f"Llama() has no argument {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def warn(given: Mapping[str, Any], depth: int = 3) -> None:
    """Warn of each argument that asks for what is not done; Python shows such a warning once for a place."""
    for name, value in given.items():
        if name in WARNED and value != WARNED[name][0] and value is not None:
            warnings.warn(f"ggufpy.Llama: {name} has no effect: {WARNED[name][1]}", stacklevel=depth + 1)


def gpu_layers(given: Any, depth: int = 3) -> Layers:
    """How many layers go to a GPU. A number that cannot be had warns, as programs for llama-cpp-python give -1 on any
    machine; "all" is taken at its word."""
    layers = GpuLayers().check("n_gpu_layers", given)
    if not layers or isinstance(given, str):
        return layers
    from ggufpy.backends.gpu.listing import why_none

    if why := why_none():
        warnings.warn(f"ggufpy.Llama: n_gpu_layers has no effect: {why}", stacklevel=depth + 1)
        return 0
    return layers


def metadata_changes(given: Mapping[str, Any], overrides: Any) -> dict[str, Any]:
    """What arguments about positions, and kv_overrides, change of the file's metadata."""
    changes: dict[str, Any] = {}
    for name, (key, default) in _KEYS.items():
        value = checks.number(name, given.get(name, default))
        if value != default and not (name == "rope_freq_base" and value <= 0):
            changes[key] = value
    changes.update(_scaling(given))
    for key, value in dict(checks.mapping("kv_overrides", {} if overrides is None else overrides)).items():
        if not isinstance(value, bool | int | float | str):
            raise GGUFError(f"kv_overrides[{key!r}] is {checks.shown(value)}; a number, a text or a bool is wanted")
        changes[checks.text("a key of kv_overrides", key)] = value
    return changes


def _scaling(given: Mapping[str, Any]) -> dict[str, Any]:
    kind = named("rope_scaling_type", given.get("rope_scaling_type"), ROPE_SCALINGS)
    scale = checks.number("rope_freq_scale", given.get("rope_freq_scale", 0.0))
    trained = checks.whole("yarn_orig_ctx", given.get("yarn_orig_ctx", 0), 0)
    changes: dict[str, Any] = {}
    if scale < 0:
        raise GGUFError(f"rope_freq_scale is {scale}, and must be above 0 (0.5 is for twice the context)")
    if scale:
        changes["{arch}.rope.scaling.factor"] = 1.0 / scale
        changes["{arch}.rope.scaling.type"] = kind or "linear"
    elif kind is not None:
        changes["{arch}.rope.scaling.type"] = kind
    if trained:
        changes["{arch}.rope.scaling.original_context_length"] = trained
    return changes


def named(name: str, value: Any, numbers: Mapping[int, str | None]) -> str | None:
    """A choice by llama.cpp's number or by its name; None stays None."""
    if value is None or (isinstance(value, str) and value in numbers.values()):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value in numbers:
        return numbers[value]
    have = ", ".join(f"{number} ({word})" for number, word in numbers.items() if word)
    raise GGUFError(f"{name} is {checks.shown(value)}; it must be one of {have}")


def adapters(paths: Any, scale: Any) -> tuple[tuple[str, float], ...]:
    """One adapter and how much it counts, or lists of both."""
    if paths is None:
        return ()
    some = [*paths] if isinstance(paths, list | tuple) else [paths]
    scales = [*scale] if isinstance(scale, list | tuple) else [scale] * len(some)
    if len(scales) != len(some):
        raise GGUFError(f"lora_scale has {len(scales)} numbers for {len(some)} adapters")
    return tuple(
        (checks.path("lora_path", path), checks.number("lora_scale", number))
        for path, number in zip(some, scales, strict=True)
    )


Handler = Callable[..., Any]


def handler(given: Any) -> Handler | None:
    """What answers chats in place of the model's template."""
    if given is not None and not callable(given):
        raise GGUFError(f"chat_handler is {checks.shown(given)}; a function or an object that can be called is wanted")
    return None if given is None else given
