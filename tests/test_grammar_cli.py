"""`ggufpy run` with a grammar: its forms, and what is wrong with one before a model is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from llm_fakes import parts
from test_cli import run
from test_grammar_constraint import Bytes

from ggufpy.generate import loading
from ggufpy.generate.loading import Later, LoadOptions, Parts


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Every model is the fake one; how often it was loaded."""
    seen = SimpleNamespace(count=0)

    def load(model: str, options: LoadOptions) -> Parts:
        seen.count += 1
        return replace(parts(n_ctx=256), tokenizer=Later(Bytes))

    monkeypatch.setattr(loading, "load_parts", load)
    return seen


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Grammars in files, in the present folder."""
    monkeypatch.chdir(tmp_path)
    Path("yes.gbnf").write_text('root ::= "yes" | "no"\n')
    Path("yes.json").write_text('\ufeff{"enum": ["yes"]}', "utf-8")
    Path("yes.lark").write_text('start: "yes"\n')
    Path("latin.gbnf").write_bytes(b'root ::= "\xe9"')
    return tmp_path


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--grammar", 'root ::= "yes"'), "yes"),
        (("--grammar-file", "yes.gbnf"), "yes"),
        (("--regex", "y[e][s]"), "yes"),
        (("--lark-file", "yes.lark"), "yes"),
        (("-j", '{"const": "yes"}'), '"yes"'),
        (("--json-schema", '{"enum": [17]}'), "17"),
        (("-jf", "yes.json"), '"yes"'),
    ],
)
def test_a_grammar_in_each_form(
    words: tuple[str, str], text: str, loads: SimpleNamespace, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, "run", "m.gguf", "--raw", "-p", "abc", "--temp", "1", "-s", "3", "-n", "50", *words)
    assert (status, err) == (0, "")
    assert out in (text + "\n", "no\n")
    assert loads.count == 1


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        (("--grammar", "root ::= x"), "grammar: the rule root uses x", 1),
        (("--grammar-file", "gone.gbnf"), "gone.gbnf: No such file", 1),
        (("--grammar-file", "latin.gbnf"), "latin.gbnf is not UTF-8 text (byte 10)", 1),
        (("--regex", "a("), "regex: ", 1),
        (("-j", "{"), "--json-schema: this is not JSON", 1),
        (("-j", '{"properties": {"a": {"not": {}}}}'), "--json-schema: properties.a: not cannot be enforced", 1),
        (("-jf", "yes.gbnf"), "yes.gbnf: this is not JSON", 1),
        (("--lark-file", "yes.gbnf"), "Lark grammar: ", 1),
        (("--regex", "a", "--grammar", "b"), "not allowed with argument", 2),
        (("--regex", "a", "--ignore-eos"), "leave one of them out", 2),
    ],
)
def test_wrong_grammars_are_one_line_before_a_model_is_loaded(
    words: tuple[str, ...],
    said: str,
    status: int,
    loads: SimpleNamespace,
    files: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    got, out, err = run(capsys, "run", "m.gguf", "-p", "abc", *words)
    assert (got, out, loads.count) == (status, "", 0)
    assert said in err
    assert err.count("\n") == 1
