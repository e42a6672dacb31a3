"""Sources of weights: a model that is only in memory, its checks, and that it runs as the file of it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import BEST, SIZES, VOCABULARY, metadata, weights, write_model

from ggufpy import format as gguf
from ggufpy import quants
from ggufpy.backends.cpu.model import Model, load_kernels, read_plan
from ggufpy.errors import GGUFError
from ggufpy.format import ArraySource, Blocks
from ggufpy.jit.cache import library
from ggufpy.models.source import WeightSource
from ggufpy.runtime import EngineOptions, load
from ggufpy.runtime.engine import Chunk, Engine

TOKENS = [1, 5, 9, 60, 0, 3, 3, 2]


def logits(source: WeightSource) -> Any:
    plan, options, kernels = read_plan(source), EngineOptions(n_threads=2), library(BEST)
    load_kernels(source, plan, options, kernels)
    engine = Engine(Model(source, plan, options, kernels), 64)
    (found,) = engine.step([Chunk(engine.sequence(), TOKENS, "all")])
    engine.close()
    return found


@pytest.mark.parametrize("type_name", ["F32", "Q8_0"])
def test_a_model_in_memory_runs_as_its_file_does(tmp_path: Path, type_name: str) -> None:
    sizes = {**SIZES, "embedding_length": 64, "feed_forward_length": 96}
    made = weights(sizes, VOCABULARY, type_name)
    source = ArraySource(metadata(sizes), made)
    path = write_model(tmp_path / "m", {"embedding_length": 64, "feed_forward_length": 96}, type_name=type_name)
    with gguf.open(path) as file:
        assert read_plan(source) == read_plan(file)
        assert {n: (t.shape, t.type, t.nbytes) for n, t in source.tensors.items()} == {
            n: (t.shape, t.type, t.nbytes) for n, t in file.tensors.items()
        }
        np.testing.assert_array_equal(logits(source), logits(file))
    load(source, EngineOptions(n_threads=1)).close()  # as an application does it


def test_tensors_of_a_file_can_be_mixed_with_arrays(tmp_path: Path) -> None:
    with gguf.open(write_model(tmp_path / "m")) as file:
        changed = np.full(SIZES["embedding_length"], 2.0, np.float32)
        source = ArraySource(file.metadata, {**file.tensors, "output_norm.weight": changed})
        np.testing.assert_array_equal(source.tensors["output_norm.weight"].to_numpy(), changed)
        with gguf.open(write_model(tmp_path / "other", tensors={"output_norm.weight": changed})) as other:
            np.testing.assert_array_equal(logits(source), logits(other))


def test_arrays_are_not_copied_and_cannot_be_written_through() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    tensor = ArraySource({}, {"a": x}).tensors["a"]
    assert np.shares_memory(tensor.data, x)
    assert not tensor.data.flags.writeable
    tensor.release()  # there is nothing to give back
    np.testing.assert_array_equal(tensor.to_numpy(), x)


def test_arrays_in_other_orders_have_their_values() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    source = ArraySource({}, {"big": x.astype(">f4"), "turned": x.T, "one": np.float32(3), "none": x[:0]})
    np.testing.assert_array_equal(source.tensors["big"].to_numpy(), x)
    np.testing.assert_array_equal(source.tensors["turned"].to_numpy(), x.T)
    assert source.tensors["one"].shape == ()
    assert source.tensors["none"].to_numpy().shape == (0, 4)


def test_metadata_have_the_types_that_a_file_gives_them() -> None:
    source = ArraySource({"a": 3, "b": gguf.Typed("uint16", 7), "c": ["x", "y"]}, {})
    assert dict(source.metadata) == {"a": 3, "b": 7, "c": ["x", "y"]}
    assert (source.metadata.type("b"), source.metadata.count("c")) == ("uint16", 2)


BLOCKS = quants.quantize(np.ones((2, 32), np.float32), "Q4_0")


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"a": [1.0]}, "a list is not an array, Blocks or Tensor"),
        ({"a": np.ones(3, complex)}, "GGUF has no type for complex128"),
        ({"a": Blocks(BLOCKS[:, :-1], "Q4_0")}, "not rows of whole Q4_0 blocks"),
        ({"a": Blocks(BLOCKS, "Q4_0", (3, 32))}, "36 bytes, but its shape takes 54"),
        ({"a": Blocks(BLOCKS, "Q9")}, "Q9"),
        ({"": np.ones(3)}, "tensor name has 0 bytes"),
        ({3: np.ones(3)}, "tensor name must be a string, not int"),
        ([], "tensors"),
    ],
)
def test_what_cannot_be_a_tensor(tensors: Any, match: str) -> None:
    with pytest.raises(GGUFError, match=match):
        ArraySource({}, tensors)


def test_what_cannot_be_metadata() -> None:
    with pytest.raises(GGUFError, match="metadata 'a'"):
        ArraySource({"a": object()}, {})
