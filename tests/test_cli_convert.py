"""`ggufpy convert` on the command line: where files go, what is said of them, options that go ill together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoints import weights, write

from ggufpy import cli, hub


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint below the working folder."""
    monkeypatch.chdir(tmp_path)
    return write(Path("Tiny"), weights())


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["Tiny"], "Tiny/Tiny-AUTO.gguf"),
        (["Tiny/"], "Tiny/Tiny-AUTO.gguf"),
        (["Tiny/config.json", "--type", "f16"], "Tiny/Tiny-F16.gguf"),
        (["Tiny", "-o", "out", "--outtype", "q8_0"], "out/Tiny-Q8_0.gguf"),
        (["Tiny", "--outfile", "m-{ftype}.gguf", "--outtype", "F16"], "m-f16.gguf"),
        (["Tiny", "-o", "out/{OUTTYPE}.gguf"], "out/AUTO.gguf"),
        (["hf:owner/Large", "--type", "F32"], "Large-F32.gguf"),
        (["hf:owner/Large", "-o", "out"], "out/Large-AUTO.gguf"),
        (["owner/Large", "--remote", "--no-lazy", "--outfile", "l.gguf"], "l.gguf"),
    ],
)
def test_where_the_file_goes(
    folder: Path, words: list[str], file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out").mkdir()
    given = hub.resolve_checkpoint

    def fetched(name: str, *rest: bool) -> Path:
        return folder if name.startswith("hf:") else given(name, *rest)

    monkeypatch.setattr(hub, "resolve_checkpoint", fetched)
    assert cli.main(["convert", *words, "--no-vocab"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f" bits per weight, in {file}")
    assert [str(path) for path in Path().rglob("*.gguf")] == [file]


def test_several_files_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["convert", "Tiny", "-o", "m.gguf", "--no-vocab", "--split-max-size", "50K"]
    assert cli.main([*words, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" bits per weight, nothing written")
    assert cli.main([*words, "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f", in {files[0]} and {len(files) - 1} more")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--pure", "--target-bpw", "4"], "--pure is one type for all"),
        (["--split-max-size", "1G", "--split-max-tensors", "9"], "files are cut by bytes or by tensors"),
        (["--vocab-only", "--dry-run"], "--vocab-only writes no weights"),
        (["--split-max-size", "1X"], "'1X' is no size such as 500M or 2G"),
        (["--tensor-type", "attn"], "'attn' is not REGEX=TYPE"),
        (["--outfiel", "m.gguf"], "did you mean --outfile?"),
    ],
)
def test_options_that_go_ill_together(
    folder: Path, words: list[str], match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["convert", "Tiny", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert match in err
    assert not list(Path().rglob("*.gguf"))


def test_what_is_a_file_of_gguf_already(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["convert", "Tiny", "-o", "m.gguf", "--no-vocab"]) == 0
    capsys.readouterr()
    assert cli.main(["convert", "m.gguf", "-o", "n.gguf"]) == 1
    assert capsys.readouterr().err == \
        "ggufpy convert: m.gguf is a GGUF file already: 'ggufpy quantize' writes it in another type\n"  # fmt: skip
    for command in (["quantize", "Tiny", "n.gguf", "Q4_0"], ["inspect", "Tiny"], ["export", "Tiny", "out"]):
        assert cli.main(command) == 1
        assert capsys.readouterr().err == f"ggufpy {command[0]}: Tiny is a folder: give a .gguf file; of a " \
            "checkpoint 'ggufpy convert Tiny' makes one\n"  # fmt: skip
    for command in (["tokenize", "m.gguf", "-p", "a"], ["embed", "m.gguf", "-p", "a"]):
        assert cli.main(command) == 1
        assert "tokenizer.ggml.model is none: the file has no tokenizer; take it from" in capsys.readouterr().err
