"""GGUF back to a folder: what is said beside config.json, hostile metadata, and folders that are whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import families
import families_near_llama
import numpy as np
import pytest
from checkpoints import CONFIG, weights, write

from ggufpy import format as gguf
from ggufpy.convert import ConvertOptions, convert
from ggufpy.convert.export import export
from ggufpy.errors import GGUFError

LETTERS = {"type": "BPE", "vocab": {letter: i for i, letter in enumerate("abcĠ")}, "merges": []}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
TOKENIZER = {"version": "1.0", "model": LETTERS, "pre_tokenizer": BYTES, "decoder": BYTES}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small llama with a tokenizer, and what its makers recommend to sample with."""
    folder = write(tmp_path_factory.mktemp("export") / "hf", weights())
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    said = {"bos_token_id": 0, "eos_token_id": [1, 2, 3], "temperature": 0.6, "top_k": 20, "top_p": 0.95}
    (folder / "generation_config.json").write_text(json.dumps(said))
    convert(folder, folder.parent / "m.gguf", ConvertOptions("F32"))
    return folder.parent / "m.gguf"


def changed(model: Path, path: Path, changes: dict[str, Any]) -> Path:
    """The file with other metadata; None takes a key away."""
    with gguf.open(model) as file:
        values = {**file.metadata.typed_items(), **changes}
        gguf.write(path, {key: value for key, value in values.items() if value is not None}, file.tensors)
    return path


def exported(path: Path, folder: Path) -> dict[str, Any]:
    with gguf.open(path) as file:
        export(file, folder)
    return {name.stem: json.loads(name.read_text()) for name in folder.glob("*config.json")}


def test_all_tokens_that_end_a_text_and_how_to_sample_come_back(model: Path, tmp_path: Path) -> None:
    made = exported(model, tmp_path / "back")
    assert made["config"]["eos_token_id"] == 1
    assert made["generation_config"] == {
        "bos_token_id": 0, "eos_token_id": [1, 2, 3], "do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95,
    }  # fmt: skip
    convert(tmp_path / "back", tmp_path / "again.gguf", ConvertOptions("F32"))
    with gguf.open(model) as before, gguf.open(tmp_path / "again.gguf") as after:
        for key, value in before.metadata.items():
            if "_token_id" in key or "sampling" in key:
                assert after.metadata[key] == value, key


def test_where_config_json_says_it_all_there_is_no_other_file(model: Path, tmp_path: Path) -> None:
    names = ("eot_token_id", "eom_token_id")
    gone = {**dict.fromkeys(f"tokenizer.ggml.{name}" for name in names),
            **dict.fromkeys(f"general.sampling.{name}" for name in ("temp", "top_k", "top_p"))}  # fmt: skip
    made = exported(changed(model, tmp_path / "m.gguf", gone), tmp_path / "back")
    assert "generation_config" not in made
    assert made["config"]["eos_token_id"] == 1


def test_tokens_beyond_the_vocabulary_are_none(model: Path, tmp_path: Path) -> None:
    changes = {"tokenizer.ggml.padding_token_id": 2**32 - 1, "tokenizer.ggml.eot_token_id": 2**32 - 1}
    made = exported(changed(model, tmp_path / "m.gguf", changes), tmp_path / "back")
    assert made["config"]["pad_token_id"] is None
    assert made["generation_config"]["eos_token_id"] == [1, 3]


@pytest.mark.parametrize("value", ["abc", [1, 2], 0.5, True, -1])
def test_ids_that_are_no_numbers(model: Path, tmp_path: Path, value: Any) -> None:
    for key in ("bos_token_id", "eos_token_id", "padding_token_id", "eot_token_id"):
        path = changed(model, tmp_path / "m.gguf", {f"tokenizer.ggml.{key}": value})
        with gguf.open(path) as file, pytest.raises(GGUFError, match=r"^[^\n]+$"):
            export(file, tmp_path / "back")
        assert not (tmp_path / "back").exists()


@pytest.mark.slow
def test_any_value_of_the_metadata_gives_a_folder_or_one_line(model: Path, tmp_path: Path) -> None:
    with gguf.open(model) as file:
        keys = [key for key in file.metadata if "tokens" not in key]
    more = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0, "general.sampling.temp": 0.5,
            "llama.rope.dimension_count": 16, "llama.rope.scaling.original_context_length": 64}  # fmt: skip
    odd: list[Any] = [None, True, -1, 0, 1, 0.5, float("nan"), "", "x", "\udcff", [1], ["a"], 2**63]
    for key in [*keys, *more]:
        for value in odd:
            path = changed(model, tmp_path / "m.gguf", {**more, key: value})
            target, said = tmp_path / "back", ""
            try:
                with gguf.open(path) as file:
                    export(file, target)
            except GGUFError as error:
                said = str(error)
            assert target.exists() == (not said), (key, value)
            assert "\n" not in said
            shutil.rmtree(target, ignore_errors=True)


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("qwen2 windows", "qwen2.attention.sliding_window", [1]),
        ("qwen2 windows", "qwen2.attention.sliding_window_pattern", 1),
        ("gemma-embedding", "gemma-embedding.pooling_type", "x"),
        ("gemma-embedding", "gemma-embedding.pooling_type", 2**40),
    ],
)
def test_values_of_another_kind(
    family: str, key: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They plan and run, and config.json has no words for them."""
    with monkeypatch.context() as patch:
        path = families.write(tmp_path / "m.gguf", *families_near_llama.FAMILIES[family], patch)
    with (
        gguf.open(changed(path, tmp_path / "n.gguf", {key: value})) as file,
        pytest.raises(GGUFError, match=r"^[^\n]*cannot be said in a config\.json[^\n]*$|^[^\n]*pooling[^\n]*$"),
    ):
        export(file, tmp_path / "back")
    assert not (tmp_path / "back").exists()


# -- the folder ----------------------------------------------------------------------------------------------------


def test_folders(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    assert "config" in exported(model, tmp_path / "empty")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert "config" in exported(model, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "config.json").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with gguf.open(model) as file:
        export(file, Path("below"))
        for name, match in (("below", "not empty"), ("below/config.json", "not empty"), ("no/where", "is no folder")):
            with pytest.raises(GGUFError, match=match):
                export(file, Path(name))
    assert sorted(path.name for path in Path().iterdir()) == ["below"]


def test_a_full_disk_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **named: Any) -> Any:
        raise OSError(28, "No space left on device")

    for name in ("write_safetensors", "write_json", "sync_folder"):
        with monkeypatch.context() as patch:
            patch.setattr(f"ggufpy.convert.export.{name}", full)
            with gguf.open(model) as file, pytest.raises(GGUFError, match=r"cannot write .*back: No space left on dev"):
                export(file, tmp_path / "back")
        assert list(tmp_path.iterdir()) == []


_SLOW = """
import sys, time
from pathlib import Path
from ggufpy import format as gguf
from ggufpy.convert import export as module
write = module.write_safetensors
def slow(*args):
    write(*args)
    print("written", flush=True)
    time.sleep(600)
module.write_safetensors = slow
with gguf.open(sys.argv[1]) as file:
    module.export(file, Path(sys.argv[2]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no locks to ask")
def test_what_a_killed_process_left_is_removed_by_the_next(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "back"
    command = [sys.executable, "-c", _SLOW, str(model), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "written\n"
        assert not target.exists()
        assert len(list(tmp_path.iterdir())) == 1
        os.kill(child.pid, signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 1
    exported(model, target)
    assert list(tmp_path.iterdir()) == [target]


def test_bits_are_those_of_the_checkpoint(model: Path, tmp_path: Path) -> None:
    """What came of a folder, and went back to one, comes to the same file."""
    exported(model, tmp_path / "back")
    convert(tmp_path / "back", tmp_path / "again.gguf", ConvertOptions("F32"))
    with gguf.open(model) as before, gguf.open(tmp_path / "again.gguf") as after:
        assert set(before.tensors) == set(after.tensors)
        for name, tensor in before.tensors.items():
            np.testing.assert_array_equal(tensor.data, after.tensors[name].data)
        assert after.metadata["llama.block_count"] == CONFIG["num_hidden_layers"]
