"""A text's settings as llama-server shows them: `generation_settings` of answers, `params` of `/slots` and `/props`.

What is only llama.cpp's has the value that says so: no lazy grammar, no format of chats (tools/server/server-task.cpp,
task_params::to_json).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ggufpy.api.openai.asked import Asked
    from ggufpy.generate.sampling import Sampling

Record = dict[str, Any]
NEW_SEED = 0xFFFFFFFF  # another one every time (LLAMA_DEFAULT_SEED)
NEVER = -3.4028234663852886e38  # -inf, which JSON does not have: the least float32


def sampling_settings(sampling: Sampling) -> Record:
    """The options of the sampling."""
    return {
        "seed": NEW_SEED if sampling.seed in (None, -1) else sampling.seed,
        "temperature": sampling.temp,
        "dynatemp_range": sampling.dynatemp_range,
        "dynatemp_exponent": sampling.dynatemp_exponent,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "top_n_sigma": sampling.top_n_sigma,
        "xtc_probability": sampling.xtc_probability,
        "xtc_threshold": sampling.xtc_threshold,
        "typical_p": sampling.typical,
        "repeat_last_n": sampling.repeat_last_n,
        "repeat_penalty": sampling.repeat_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "dry_multiplier": sampling.dry_multiplier,
        "dry_base": sampling.dry_base,
        "dry_allowed_length": sampling.dry_allowed_length,
        "dry_penalty_last_n": sampling.dry_penalty_last_n,
        "mirostat": sampling.mirostat,
        "mirostat_tau": sampling.mirostat_tau,
        "mirostat_eta": sampling.mirostat_eta,
        "adaptive_target": sampling.adaptive_target,
        "adaptive_decay": sampling.adaptive_decay,
        "min_keep": sampling.min_keep,
        "samplers": list(sampling.samplers),
    }


def common_settings(sampling: Sampling, asked: Asked | None, stream: bool, given: Record) -> Record:
    """What slots show; `asked` None for a text that nobody has asked for, `given` what only a completion of
    llama-server's has: n_keep, n_discard, timings_per_token, ..."""
    limit = -1 if asked is None or asked.max_tokens is None else asked.max_tokens
    limit = given.get("n_predict", limit)
    return {
        **sampling_settings(sampling),
        "max_tokens": limit,
        "n_predict": limit,
        "n_keep": given.get("n_keep", 0),
        "n_discard": given.get("n_discard", 0),
        "ignore_eos": given.get("ignore_eos", False),
        "stream": stream,
        "n_probs": 0 if asked is None else asked.logprobs or 0,
        "chat_format": "Content-only",
        "reasoning_format": "none",
        "reasoning_in_content": False,
        "generation_prompt": "",
        "speculative.types": "none",
        "timings_per_token": given.get("timings_per_token", False),
        "post_sampling_probs": given.get("post_sampling_probs", False),
        "backend_sampling": False,
        "lora": _adapters(asked),
    }


def full_settings(sampling: Sampling, asked: Asked, stream: bool, given: Record) -> Record:
    """What an answer shows: with what may be long."""
    biases = [{"bias": bias if math.isfinite(bias) else NEVER, "token": token} for token, bias in sampling.logit_bias]
    return {
        **common_settings(sampling, asked, stream, given),
        "dry_sequence_breakers": list(sampling.dry_sequence_breakers),
        "stop": list(asked.stop),
        "logit_bias": biases,
        "grammar": given.get("grammar", ""),
        "grammar_lazy": False,
        "grammar_triggers": [],
        "preserved_tokens": [],
    }


def _adapters(asked: Asked | None) -> list[Record]:
    """How much each adapter counts, where the call says so."""
    scales = None if asked is None else asked.scales
    return [{"id": i, "scale": scale} for i, scale in enumerate(scales or ())]
