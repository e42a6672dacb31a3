"""Constants that programs pass to `Llama`, and the few functions of llama.cpp that mean something without its library.

The numbers are those of llama.h and ggml.h (llama.cpp, include/ and ggml/include/). Functions that take pointers to
models, contexts or batches are not here: asking for one raises AttributeError, which says what takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LLAMA_DEFAULT_SEED = 0xFFFFFFFF  # a seed that means another one every time
LLAMA_TOKEN_NULL = -1
LLAMA_MAX_DEVICES = 1

LLAMA_VOCAB_TYPE_NONE, LLAMA_VOCAB_TYPE_SPM, LLAMA_VOCAB_TYPE_BPE, LLAMA_VOCAB_TYPE_WPM = range(4)
LLAMA_VOCAB_TYPE_UGM, LLAMA_VOCAB_TYPE_RWKV, LLAMA_VOCAB_TYPE_PLAMO2 = range(4, 7)

LLAMA_ROPE_TYPE_NONE, LLAMA_ROPE_TYPE_NORM, LLAMA_ROPE_TYPE_NEOX = -1, 0, 2
LLAMA_ROPE_TYPE_MROPE, LLAMA_ROPE_TYPE_VISION, LLAMA_ROPE_TYPE_IMROPE = 8, 24, 40

LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED, LLAMA_ROPE_SCALING_TYPE_NONE, LLAMA_ROPE_SCALING_TYPE_LINEAR = range(-1, 2)
LLAMA_ROPE_SCALING_TYPE_YARN, LLAMA_ROPE_SCALING_TYPE_LONGROPE = range(2, 4)
LLAMA_ROPE_SCALING_TYPE_MAX_VALUE = LLAMA_ROPE_SCALING_TYPE_LONGROPE

LLAMA_POOLING_TYPE_UNSPECIFIED, LLAMA_POOLING_TYPE_NONE, LLAMA_POOLING_TYPE_MEAN = range(-1, 2)
LLAMA_POOLING_TYPE_CLS, LLAMA_POOLING_TYPE_LAST, LLAMA_POOLING_TYPE_RANK = range(2, 5)

LLAMA_ATTENTION_TYPE_UNSPECIFIED, LLAMA_ATTENTION_TYPE_CAUSAL, LLAMA_ATTENTION_TYPE_NON_CAUSAL = range(-1, 2)

LLAMA_FLASH_ATTN_TYPE_AUTO, LLAMA_FLASH_ATTN_TYPE_DISABLED, LLAMA_FLASH_ATTN_TYPE_ENABLED = range(-1, 2)

LLAMA_SPLIT_MODE_NONE, LLAMA_SPLIT_MODE_LAYER, LLAMA_SPLIT_MODE_ROW, LLAMA_SPLIT_MODE_TENSOR = range(4)

LLAMA_LOAD_MODE_AUTO, LLAMA_LOAD_MODE_NONE, LLAMA_LOAD_MODE_MMAP = range(-1, 2)
LLAMA_LOAD_MODE_MLOCK, LLAMA_LOAD_MODE_MMAP_MLOCK, LLAMA_LOAD_MODE_DIRECT_IO = range(2, 5)

LLAMA_KV_OVERRIDE_TYPE_INT, LLAMA_KV_OVERRIDE_TYPE_FLOAT = range(2)
LLAMA_KV_OVERRIDE_TYPE_BOOL, LLAMA_KV_OVERRIDE_TYPE_STR = range(2, 4)

GGML_NUMA_STRATEGY_DISABLED, GGML_NUMA_STRATEGY_DISTRIBUTE, GGML_NUMA_STRATEGY_ISOLATE = range(3)
GGML_NUMA_STRATEGY_NUMACTL, GGML_NUMA_STRATEGY_MIRROR, GGML_NUMA_STRATEGY_COUNT = range(3, 6)

GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q4_0, GGML_TYPE_Q4_1 = range(4)
GGML_TYPE_Q5_0, GGML_TYPE_Q5_1, GGML_TYPE_Q8_0, GGML_TYPE_Q8_1 = range(6, 10)
GGML_TYPE_Q2_K, GGML_TYPE_Q3_K, GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_Q8_K = range(10, 16)
GGML_TYPE_IQ2_XXS, GGML_TYPE_IQ2_XS, GGML_TYPE_IQ3_XXS, GGML_TYPE_IQ1_S = range(16, 20)
GGML_TYPE_IQ4_NL, GGML_TYPE_IQ3_S, GGML_TYPE_IQ2_S, GGML_TYPE_IQ4_XS = range(20, 24)
GGML_TYPE_I8, GGML_TYPE_I16, GGML_TYPE_I32, GGML_TYPE_I64, GGML_TYPE_F64, GGML_TYPE_IQ1_M = range(24, 30)
GGML_TYPE_BF16 = 30
GGML_TYPE_MXFP4, GGML_TYPE_NVFP4, GGML_TYPE_Q1_0, GGML_TYPE_Q2_0, GGML_TYPE_COUNT = range(39, 44)


def llama_supports_mmap() -> bool:
    """Model files are mapped."""
    return True


def llama_supports_mlock() -> bool:
    """Memory is not locked."""
    return False


def llama_supports_gpu_offload() -> bool:
    """Whether layers can run on a GPU here."""
    from ggufpy.backends.gpu.listing import why_none

    return not why_none()


def llama_supports_rpc() -> bool:
    """Models run on this machine."""
    return False


def llama_max_devices() -> int:
    """How many devices layers can be on."""
    return LLAMA_MAX_DEVICES


def llama_print_system_info() -> bytes:
    """The SIMD level that runs, and the threads."""
    from ggufpy import __version__
    from ggufpy.simd import isa
    from ggufpy.support import cores

    return f"ggufpy {__version__}: {isa.current().name}, {cores.default_threads()} threads".encode()


def llama_backend_init(numa: bool = False) -> None:
    """There is nothing to begin with."""


def llama_backend_free() -> None:
    """There is nothing to end with."""


def llama_log_callback(function: Callable[..., Any]) -> Callable[..., Any]:
    """Programs decorate with it what they give to `llama_log_set`."""
    return function


def llama_log_set(log_callback: Callable[..., Any] | None, user_data: Any = None) -> None:
    """Nothing is logged through functions: a `Llama` says on stderr what it does if `verbose` is True, else nothing."""


# By what names begin with: what to use in place of llama.cpp's functions.
_INSTEAD = (
    (("llama_model_load", "llama_load", "llama_init", "llama_new_context", "llama_context", "llama_model_default"),
     "Llama(model_path, ...) loads a model"),
    (("llama_model_quantize", "llama_ftype", "LLAMA_FTYPE"), "`ggufpy quantize` and ggufpy.quantize make blocks"),
    (("llama_decode", "llama_encode", "llama_batch", "llama_get_logits"),
     "Llama.eval, Llama.logits and Llama.generate evaluate tokens"),
    (("llama_get_embeddings",), "Llama.embed makes embeddings"),
    (("llama_token", "llama_detokenize", "llama_vocab", "llama_add", "LLAMA_TOKEN"),
     "Llama.tokenize, Llama.detokenize and Llama.token_eos know the vocabulary"),
    (("llama_sampl", "llama_grammar"), "Llama.sample, the options of ggufpy.Sampling and LlamaGrammar choose tokens"),
    (("llama_kv", "llama_memory"), "Llama.reset forgets a text, and n_parallel keeps several"),
    (("llama_state", "llama_copy_state", "llama_set_state", "llama_save", "LLAMA_STATE", "LLAMA_SESSION"),
     "Llama.save_state and Llama.load_state keep a text"),
    (("llama_adapter", "llama_lora", "llama_set_adapter"), "Llama(..., lora_path=...) adds an adapter"),
    (("llama_chat",), "Llama.create_chat_completion applies templates"),
    (("llama_model", "llama_n_", "llama_get_model"), "Llama.metadata, n_ctx, n_embd and n_vocab describe a model"),
    (("mtmd", "llava", "clip"), "models are given text only here"),
)  # fmt: skip


def no_such_name(module: str, name: str) -> AttributeError:
    """The error for a name that is not here; for one of llama.cpp's own functions it says what takes its place."""
    for begins, instead in _INSTEAD:
        if name.startswith(begins):
            return AttributeError(f"{name}: llama.cpp's low-level API is not part of ggufpy; {instead}")
    if name.startswith(("llama_", "ggml_", "LLAMA_", "GGML_")):
        return AttributeError(f"{name}: llama.cpp's low-level API is not part of ggufpy; use what Llama has")
    return AttributeError(f"module {module!r} has no attribute {name!r}")


def __getattr__(name: str) -> object:
    raise no_such_name(__name__, name)


__all__ = [
    "GGML_NUMA_STRATEGY_COUNT",
    "GGML_NUMA_STRATEGY_DISABLED",
    "GGML_NUMA_STRATEGY_DISTRIBUTE",
    "GGML_NUMA_STRATEGY_ISOLATE",
    "GGML_NUMA_STRATEGY_MIRROR",
    "GGML_NUMA_STRATEGY_NUMACTL",
    "GGML_TYPE_BF16",
    "GGML_TYPE_COUNT",
    "GGML_TYPE_F16",
    "GGML_TYPE_F32",
    "GGML_TYPE_F64",
    "GGML_TYPE_I8",
    "GGML_TYPE_I16",
    "GGML_TYPE_I32",
    "GGML_TYPE_I64",
    "GGML_TYPE_IQ1_M",
    "GGML_TYPE_IQ1_S",
    "GGML_TYPE_IQ2_S",
    "GGML_TYPE_IQ2_XS",
    "GGML_TYPE_IQ2_XXS",
    "GGML_TYPE_IQ3_S",
    "GGML_TYPE_IQ3_XXS",
    "GGML_TYPE_IQ4_NL",
    "GGML_TYPE_IQ4_XS",
    "GGML_TYPE_MXFP4",
    "GGML_TYPE_NVFP4",
    "GGML_TYPE_Q1_0",
    "GGML_TYPE_Q2_0",
    "GGML_TYPE_Q2_K",
    "GGML_TYPE_Q3_K",
    "GGML_TYPE_Q4_0",
    "GGML_TYPE_Q4_1",
    "GGML_TYPE_Q4_K",
    "GGML_TYPE_Q5_0",
    "GGML_TYPE_Q5_1",
    "GGML_TYPE_Q5_K",
    "GGML_TYPE_Q6_K",
    "GGML_TYPE_Q8_0",
    "GGML_TYPE_Q8_1",
    "GGML_TYPE_Q8_K",
    "LLAMA_ATTENTION_TYPE_CAUSAL",
    "LLAMA_ATTENTION_TYPE_NON_CAUSAL",
    "LLAMA_ATTENTION_TYPE_UNSPECIFIED",
    "LLAMA_DEFAULT_SEED",
    "LLAMA_FLASH_ATTN_TYPE_AUTO",
    "LLAMA_FLASH_ATTN_TYPE_DISABLED",
    "LLAMA_FLASH_ATTN_TYPE_ENABLED",
    "LLAMA_KV_OVERRIDE_TYPE_BOOL",
    "LLAMA_KV_OVERRIDE_TYPE_FLOAT",
    "LLAMA_KV_OVERRIDE_TYPE_INT",
    "LLAMA_KV_OVERRIDE_TYPE_STR",
    "LLAMA_LOAD_MODE_AUTO",
    "LLAMA_LOAD_MODE_DIRECT_IO",
    "LLAMA_LOAD_MODE_MLOCK",
    "LLAMA_LOAD_MODE_MMAP",
    "LLAMA_LOAD_MODE_MMAP_MLOCK",
    "LLAMA_LOAD_MODE_NONE",
    "LLAMA_MAX_DEVICES",
    "LLAMA_POOLING_TYPE_CLS",
    "LLAMA_POOLING_TYPE_LAST",
    "LLAMA_POOLING_TYPE_MEAN",
    "LLAMA_POOLING_TYPE_NONE",
    "LLAMA_POOLING_TYPE_RANK",
    "LLAMA_POOLING_TYPE_UNSPECIFIED",
    "LLAMA_ROPE_SCALING_TYPE_LINEAR",
    "LLAMA_ROPE_SCALING_TYPE_LONGROPE",
    "LLAMA_ROPE_SCALING_TYPE_MAX_VALUE",
    "LLAMA_ROPE_SCALING_TYPE_NONE",
    "LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED",
    "LLAMA_ROPE_SCALING_TYPE_YARN",
    "LLAMA_ROPE_TYPE_IMROPE",
    "LLAMA_ROPE_TYPE_MROPE",
    "LLAMA_ROPE_TYPE_NEOX",
    "LLAMA_ROPE_TYPE_NONE",
    "LLAMA_ROPE_TYPE_NORM",
    "LLAMA_ROPE_TYPE_VISION",
    "LLAMA_SPLIT_MODE_LAYER",
    "LLAMA_SPLIT_MODE_NONE",
    "LLAMA_SPLIT_MODE_ROW",
    "LLAMA_SPLIT_MODE_TENSOR",
    "LLAMA_TOKEN_NULL",
    "LLAMA_VOCAB_TYPE_BPE",
    "LLAMA_VOCAB_TYPE_NONE",
    "LLAMA_VOCAB_TYPE_PLAMO2",
    "LLAMA_VOCAB_TYPE_RWKV",
    "LLAMA_VOCAB_TYPE_SPM",
    "LLAMA_VOCAB_TYPE_UGM",
    "LLAMA_VOCAB_TYPE_WPM",
    "llama_backend_free",
    "llama_backend_init",
    "llama_log_callback",
    "llama_log_set",
    "llama_max_devices",
    "llama_print_system_info",
    "llama_supports_gpu_offload",
    "llama_supports_mlock",
    "llama_supports_mmap",
    "llama_supports_rpc",
]  # fmt: skip
