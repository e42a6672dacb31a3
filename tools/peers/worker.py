"""A process that holds one model in one engine and times what it is told to: the far end of `peers.Worker`.

In: an engine's name and a JSON object {model, n_ctx, threads} as arguments; then, on stdin, a line of JSON a request:
{task: "prompt" | "decode", tokens, depth}. Out, on stdout, a line each: what the engine is, once it is ready, then
{seconds}; or {error}. Whatever else an engine prints goes to stderr.

It runs in the peer's environment, so it imports nothing but the standard library and the engine that it is for.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

Setup = dict[str, Any]
PARAMS_BYTES = 1024  # more than llama.cpp's parameter structs have


class Engine(Protocol):
    """A loaded model. `about` is shown under the table; a method returns the seconds that the tokens took."""

    about: dict[str, Any]

    def prompt(self, tokens: int) -> float: ...

    def decode(self, tokens: int, depth: int) -> float: ...


def some_tokens(count: int, n_vocab: int) -> list[int]:
    """`count` tokens that are the same for every engine; ids below 300 may be special or bytes."""
    low = min(300, n_vocab // 2)
    return [low + i * 7919 % (n_vocab - low) for i in range(count)]


class Ggufpy:
    """ggufpy, measured as `ggufpy bench` measures it."""

    def __init__(self, setup: Setup) -> None:
        from ggufpy import __version__
        from ggufpy.generate.loading import LoadOptions, load_parts

        options = LoadOptions(n_ctx=setup["n_ctx"], n_threads=setup["threads"], text=False)
        self._engine = load_parts(setup["model"], options).engine
        self.about = {"version": f"ggufpy {__version__}", "isa": self._engine.isa, "decode": "without sampling"}
        self.about["type"] = self._engine.type_name

    def prompt(self, tokens: int) -> float:
        from ggufpy.commands.bench import prompt_seconds

        return prompt_seconds(self._engine, some_tokens(tokens, self._engine.n_vocab))

    def decode(self, tokens: int, depth: int) -> float:
        from ggufpy.commands.bench import decode_seconds

        ids = some_tokens(max(tokens, depth), self._engine.n_vocab)
        return decode_seconds(self._engine, ids[:depth], ids[:tokens])


class _Params(ctypes.Structure):
    """A llama.cpp parameter struct of any version: only the first numbers are ours to know.

    It is larger than the real one, which is safe where it is returned (the callee writes its own size) and where it is
    the last argument (the callee reads its own size from the start of the copy).
    """

    _fields_ = (("numbers", ctypes.c_int32 * 4), ("rest", ctypes.c_uint8 * (PARAMS_BYTES - 16)))


class _Batch(ctypes.Structure):
    """llama_batch (llama.h): a number of tokens and six addresses."""

    _fields_ = (("n_tokens", ctypes.c_int32), *((f"p{i}", ctypes.c_void_p) for i in range(6)))


class LlamaApi:
    """llama.cpp through the C functions in xllamacpp's library: what llama-bench times, so no sampling.

    Raises AttributeError or RuntimeError where the library does not have them, or not as expected.
    """

    def __init__(self, setup: Setup) -> None:
        package = importlib.import_module("xllamacpp")
        self._lib = ctypes.CDLL(importlib.import_module("xllamacpp.xllamacpp").__file__ or "")
        self._ignore = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        pointer, number = ctypes.c_void_p, ctypes.c_int32
        self._function("llama_log_set", None, pointer, pointer)(self._ignore, None)
        self._function("llama_backend_init", None)()
        params = self._function("llama_context_default_params", _Params)()
        if list(params.numbers) != [512, 2048, 512, 1]:  # n_ctx, n_batch, n_ubatch, n_seq_max
            raise RuntimeError("llama_context_params do not begin as expected")
        load = self._function("llama_model_load_from_file", pointer, ctypes.c_char_p, _Params)
        model = load(os.fsencode(setup["model"]), self._function("llama_model_default_params", _Params)())
        if not model:
            raise OSError(f"llama.cpp cannot load {setup['model']}")
        params.numbers[0] = setup["n_ctx"]
        self._context = self._function("llama_init_from_model", pointer, pointer, _Params)(model, params)
        if not self._context:
            raise MemoryError("llama.cpp cannot make a context")
        threads = setup["threads"]
        self._function("llama_set_n_threads", None, pointer, number, number)(self._context, threads, threads)
        vocabulary = self._function("llama_model_get_vocab", pointer, pointer)(model)
        self._n_vocab: int = self._function("llama_vocab_n_tokens", number, pointer)(vocabulary)
        self._memory = self._function("llama_get_memory", pointer, pointer)(self._context)
        self._clear = self._function("llama_memory_clear", None, pointer, ctypes.c_bool)
        self._get_one = self._function("llama_batch_get_one", _Batch, pointer, number)
        self._decode = self._function("llama_decode", number, pointer, _Batch)
        self._synchronize = self._function("llama_synchronize", None, pointer)
        info = self._function("llama_print_system_info", ctypes.c_char_p)().decode()
        self.about = _about(package, info, "without sampling")

    def _function(self, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        function = getattr(self._lib, name)
        function.restype, function.argtypes = result, list(arguments)
        return function  # type: ignore[no-any-return]

    def _eval(self, tokens: Any, count: int, first: int = 0) -> None:
        address = ctypes.addressof(tokens) + first * ctypes.sizeof(ctypes.c_int32)
        if status := self._decode(self._context, self._get_one(address, count)):
            raise RuntimeError(f"llama_decode failed with {status}")

    def _fresh(self, count: int) -> Any:
        """Empties the context. Returns an array of tokens."""
        self._clear(self._memory, False)
        return (ctypes.c_int32 * count)(*some_tokens(count, self._n_vocab))

    def _fill(self, tokens: Any, count: int) -> None:
        for first in range(0, count, 2048):  # n_batch
            self._eval(tokens, min(2048, count - first), first)
        self._synchronize(self._context)

    def prompt(self, tokens: int) -> float:
        ids = self._fresh(tokens)
        start = time.perf_counter()
        self._fill(ids, tokens)
        return time.perf_counter() - start

    def decode(self, tokens: int, depth: int) -> float:
        ids = self._fresh(max(tokens, depth))
        self._fill(ids, depth)
        start = time.perf_counter()
        for i in range(tokens):
            self._eval(ids, 1, i)
            self._synchronize(self._context)
        return time.perf_counter() - start


class LlamaCompletions:
    """llama.cpp through xllamacpp's completion call, for libraries that keep their C functions to themselves."""

    def __init__(self, setup: Setup) -> None:
        package = importlib.import_module("xllamacpp")
        params = package.CommonParams()
        params.model.path = setup["model"]
        params.n_ctx, params.n_parallel, params.n_gpu_layers, params.verbosity = setup["n_ctx"] + 8, 1, 0, -1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = setup["threads"]
        self._server = package.Server(params)
        self.about = _about(package, package.get_system_info(), "with greedy sampling (top-k of 1)")

    def _timings(self, prompt: int, tokens: int) -> dict[str, float]:
        request = {"prompt": some_tokens(prompt, 1000), "n_predict": tokens, "samplers": ["top_k"], "top_k": 1}
        answer = self._server.handle_completions({**request, "ignore_eos": True, "cache_prompt": False})
        if "timings" not in answer:
            raise RuntimeError(f"llama.cpp answers {json.dumps(answer)[:200]}")
        timings: dict[str, float] = answer["timings"]
        return timings

    def prompt(self, tokens: int) -> float:
        return self._timings(tokens, 1)["prompt_ms"] / 1e3

    def decode(self, tokens: int, depth: int) -> float:
        return self._timings(max(depth, 1), tokens)["predicted_ms"] / 1e3


def _about(package: Any, info: str, decode: str) -> dict[str, Any]:
    """What is said about a llama.cpp: the CPU features that it was compiled for are in `info`."""
    flags = (part.removeprefix("CPU : ").strip().split(" = ") for part in info.split("|"))
    features = [flag[0] for flag in flags if flag[-1] == "1"]
    return {"version": f"xllamacpp {package.__version__}", "features": features, "decode": decode}


def llama(setup: Setup) -> Engine:
    """llama.cpp without sampling where its C functions can be called, else through its completion call."""
    try:
        return LlamaApi(setup)
    except (AttributeError, RuntimeError) as error:
        print(f"worker: {error}: using the completion call", file=sys.stderr)
        return LlamaCompletions(setup)


ENGINES: dict[str, Callable[[Setup], Engine]] = {
    "ggufpy": Ggufpy,
    "llama": llama,
    "llama-completions": LlamaCompletions,
}


def answer(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    """What a request asks for."""
    if request["task"] == "prompt":
        return {"seconds": engine.prompt(request["tokens"])}
    return {"seconds": engine.decode(request["tokens"], request["depth"])}


def main() -> int:
    """Loads, says so, answers until stdin ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print to stdout as well

    def say(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=out, flush=True)

    try:
        engine = ENGINES[sys.argv[1]](json.loads(sys.argv[2]))
        say(engine.about)
        for line in sys.stdin:
            say(answer(engine, json.loads(line)))
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
