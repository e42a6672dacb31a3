"""The programs of `examples/`: at once on a model of bytes, and, in the long run, each as a process on SmolLM2."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from byte_vocabulary import write_vocabulary
from engine import SIZES, weights
from test_chat import CHATML

import ggufpy
from ggufpy import hub
from ggufpy.support.folders import cache_dir

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOK = EXAMPLES / "activations.ipynb"


# -- all of them -------------------------------------------------------------------------------------------


def test_the_table_has_every_example() -> None:
    table = (EXAMPLES / "README.md").read_text("utf-8")
    listed = re.findall(r"^\| \[(\S+)\]\((\S+)\) \|", table, re.MULTILINE)
    assert all(name == link for name, link in listed)
    files = {path.name for path in EXAMPLES.iterdir() if not path.name.startswith("_")} - {"README.md"}
    assert {name for name, _ in listed} == files


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_an_example_says_how_it_is_run(path: Path) -> None:
    said = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    assert f"python examples/{path.name}" in said
    taken_in = set(re.findall(r"^(?:import|from) (\w+)", path.read_text("utf-8"), re.MULTILINE))
    needed = {"langchain_core": "langchain-core", "llama_index": "llama-index-core", "openai": "openai"}
    own = {"ggufpy", "numpy", "pydantic"} | set(sys.stdlib_module_names)
    assert taken_in - own <= set(needed)
    assert all(f"pip install {needed[name]}" in said for name in taken_in - own)


# -- at once, on a small model -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights over a vocabulary of bytes, with the tokens and the template of ChatML."""
    folder = tmp_path_factory.mktemp("examples")
    write_vocabulary(folder / "vocabulary.gguf")
    with ggufpy.open(folder / "vocabulary.gguf") as file:
        vocabulary = {key: file.metadata[key] for key in file.metadata if key.startswith("tokenizer.")}
    vocabulary["tokenizer.ggml.tokens"] = [*vocabulary["tokenizer.ggml.tokens"], "<|im_start|>", "<|im_end|>"]
    vocabulary["tokenizer.ggml.token_type"] = [*vocabulary["tokenizer.ggml.token_type"], 3, 3]
    vocabulary |= {"tokenizer.ggml.eos_token_id": 257, "tokenizer.chat_template": CHATML}
    sizes = {**SIZES, "context_length": 2048}
    keys = {"general.architecture": "llama", **{f"llama.{key}": value for key, value in sizes.items()}}
    ggufpy.write(folder / "m.gguf", {**keys, **vocabulary}, weights(sizes, 258, "F32"))
    return folder / "m.gguf"


def run_here(name: str, monkeypatch: pytest.MonkeyPatch, *words: Any) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_a_text_and_an_answer(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_here("script.py", monkeypatch, model)
    out = capsys.readouterr().out
    assert out.startswith("The capital of France is")
    assert re.search(r"^24 tokens read, \d+ written$", out, re.MULTILINE)


@pytest.mark.parametrize("name", ["threads.py", "async_app.py"])
def test_answers_side_by_side(
    name: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is the one that the model gives alone."""
    run_here(name, monkeypatch, model)
    out = capsys.readouterr().out
    asked = runpy.run_path(str(EXAMPLES / name), run_name="read")
    system = [asked["SYSTEM"]] if "SYSTEM" in asked else []
    with ggufpy.Llama(model, n_ctx=1024) as llm:
        for question in asked["QUESTIONS"]:
            messages = [*system, {"role": "user", "content": question}]
            answer: Any = llm.create_chat_completion(messages, 60 if system else 40, temperature=0.0)
            assert repr(answer["choices"][0]["message"]["content"]) in out
    assert re.search(r"^\d+\.\d\d s", out, re.MULTILINE)


def test_search(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text is nearest to itself, among those of files too."""
    (tmp_path / "one.txt").write_text("first of all\n\nand then\n\n\n", "utf-8")
    (tmp_path / "two.txt").write_text("at the end", "utf-8")
    run_here("search.py", monkeypatch, "-m", model, "and then", tmp_path / "one.txt", tmp_path / "two.txt")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("  and then")
    assert sorted(line.split("  ")[-1] for line in lines) == ["and then", "at the end", "first of all"]
    assert float(lines[0].split()[0]) == pytest.approx(1.0, abs=1e-3)
    run_here("search.py", monkeypatch, "-m", model, "a rocket")
    assert len(capsys.readouterr().out.splitlines()) == 3


# -- on the default model, each in a process ---------------------------------------------------------------


@pytest.fixture
def smollm2() -> None:
    """Skips where the model has never been fetched: tests fetch nothing."""
    if not (cache_dir() / "models" / "smollm2" / hub.MODELS["smollm2"].file_name).is_file():
        pytest.skip("smollm2 is not in the cache (ggufpy pull smollm2)")


def run_in_a_process(*words: str, given: str = "") -> str:
    """What a program writes to stdout. On stderr there must be nothing."""
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, *words], input=given, capture_output=True, encoding="utf-8", env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


RUNS: dict[str, tuple[list[str], str, list[str]]] = {
    "script.py": ([], "", [r"The capital of France is Paris", r"\n5 tokens read, \d+ written\n"]),
    "stream.py": ([], "Name a river.\nAnd another?\n\n", [r"(?s)> \S.*\n> \S.*\n"]),
    "threads.py": ([], "", [r"Name a river\.  '.+'", r"Name a colour\.  '.+'"]),
    "async_app.py": ([], "", [r"Name three rivers\. \(\d\.\d\d s to the first word\) '.+'", r"s for all"]),
    "extract_json.py": ([], "", [r"\{'name': 'Maria Silva', 'age': 34, 'city': 'Porto'", r"'Tom', 'age': 27"]),
    "tools_loop.py": ([], "", [r'population\(\{"city": "Paris"\}\) -> The population of Paris is 2,100,000\.\n.+']),
    "search.py": (["A spacecraft goes up."], "", [r"\A ?0\.\d+  The rocket reached orbit"]),
    "langchain_model.py": ([], "", [r"\A\['.+', '.+'\]\n.+\n"]),
    "llamaindex_model.py": ([], "", [r"kiwi.*\n.+\n"]),
}
PACKAGES = {"langchain_model.py": "langchain_core", "llamaindex_model.py": "llama_index.core"}


def present(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # what it is in is not there either
        return False


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2")
@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs(name: str) -> None:
    if name in PACKAGES and not present(PACKAGES[name]):
        pytest.skip(f"{PACKAGES[name]} is not installed")
    words, given, wanted = RUNS[name]
    out = run_in_a_process(str(EXAMPLES / name), *words, given=given)
    for pattern in wanted:
        assert re.search(pattern, out), out


def test_those_that_write_text_are_run() -> None:
    """The others are run in test_format_files.py, test_cli_readme.py and test_server_openai_client.py, or take a
    checkpoint."""
    others = {"inspect_file.py", "read_tensor.py", "quantise_file.py", "convert_checkpoint.py", "openai_client.py"}
    assert {path.name for path in PROGRAMS} == {*RUNS, *others}


# -- the notebook ------------------------------------------------------------------------------------------


def cells(kind: str) -> list[dict[str, Any]]:
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_the_notebook_is_one() -> None:
    """As nbformat 4.5 has it, run from top to bottom, its outputs small and without traces of where that was."""
    text = NOTEBOOK.read_text("utf-8")
    notebook = json.loads(text)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert {cell["cell_type"] for cell in notebook["cells"]} == {"markdown", "code"}
    code = cells("code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(output["output_type"] in ("stream", "display_data") for cell in code for output in cell["outputs"])
    assert len(text) < 60_000
    assert not re.search(r"/(home|root|tmp|Users)/", text)
    if importlib.util.find_spec("nbformat") is not None:
        importlib.import_module("nbformat").validate(notebook)


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2")
def test_the_notebook_runs(tmp_path: Path) -> None:
    """Its code as a program: what it writes begins as what is kept of it."""
    pytest.importorskip("matplotlib")
    program = "\n\n".join("".join(cell["source"]) for cell in cells("code"))
    (tmp_path / "notebook.py").write_text(program, "utf-8")
    out = run_in_a_process(str(tmp_path / "notebook.py"))
    kept = "".join("".join(output.get("text", [])) for cell in cells("code") for output in cell["outputs"])
    assert out.splitlines()[:2] == kept.splitlines()[:2]  # what there is
    assert len(out.splitlines()) == len(kept.splitlines())
    assert re.search(r"^29 \[' Paris'", out, re.MULTILINE)
    assert re.search(r"^\+1\.5 I went to the cinema", out, re.MULTILINE)
    assert "e" not in out.splitlines()[-1]
