"""AutoRound: the layouts of GPTQ and AWQ with its own zeros and bits, packed here from known codes and decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stored
from hypothesis import given, settings
from hypothesis import strategies as st
from test_storage_awq import gemm
from test_storage_gptq import random, truth

from ggufpy.convert import storage
from ggufpy.errors import GGUFError

CONFIG: dict[str, Any] = {
    "quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": True, "data_type": "int",
    "packing_format": "auto_round:auto_gptq",
}  # fmt: skip


def weight(arrays: Any, changes: Any = ()) -> Any:
    config = {"quantization_config": {**CONFIG, **dict(changes)}}
    name, made = storage.logical(config, stored.stored(stored.named("a.b", arrays)))
    assert name == "AutoRound"
    return made["a.b.weight"]


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from((2, 3, 4, 5, 6, 7, 8)), st.sampled_from(("auto_gptq", "gptq", "", "gptqmodel", "auto_awq", "awq")),
    st.integers(1, 3), st.sampled_from((32, 64, -1)), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_weights_are_codes_less_zeros_times_scales(
    bits: int, packing: str, thirties: int, size: int, symmetric: bool, seed: int
) -> None:
    if "awq" in packing:
        bits = min(max(bits, 4), 7)
    columns = 128
    step = columns if size == -1 else size
    q, scales, zeros = random(np.random.default_rng(seed), 32 * thirties, columns, bits, step, symmetric)
    lifted = packing in ("auto_gptq", "gptq")
    arrays = gemm(q, scales, zeros, bits) if "awq" in packing else stored.gptq(q, scales, zeros, bits, int(lifted))
    packing = f"auto_round:{packing}" if packing else "auto_round"
    made = weight(arrays, {"bits": bits, "group_size": size, "packing_format": packing})
    stored.check_rows(made, truth(q, scales, zeros, np.arange(columns) // step))
    if symmetric:
        stored.check_exact(made, "Q4_0" if bits <= 4 else "Q5_0" if bits == 5 else "Q8_0")


def test_zeros_may_be_more_than_any_code() -> None:
    arrays = stored.gptq(np.zeros((32, 32), int), np.ones((1, 32), np.float16), np.full((1, 32), 16), 4)
    made = weight(arrays, {"quant_method": "intel/auto-round"})
    assert (made.to_numpy() == -16).all()  # stored as 15


def test_minima_of_five_bits() -> None:
    q, scales, zeros = random(np.random.default_rng(3), 32, 64, 5, 32, False)
    made = weight(stored.gptq(q, scales, zeros, 5), {"bits": 5})
    stored.check_exact(made, "Q8_0")
    powers = np.exp2(np.random.default_rng(3).integers(-6, 2, scales.shape)).astype(np.float16)
    stored.check_exact(weight(stored.gptq(q, powers, zeros, 5), {"bits": 5}), "Q5_1")


def test_layers_of_their_own() -> None:
    rng = np.random.default_rng(4)
    first, second = random(rng, 32, 64, 4, 32, True), random(rng, 32, 64, 8, 64, True)
    arrays = stored.named("a", stored.gptq(*first, 4)) | stored.named("b", stored.gptq(*second, 8))
    said = {**CONFIG, "extra_config": {"b": {"bits": 8, "group_size": 64}, "lm_head": {"bits": 16}}}
    made = storage.logical({"quantization_config": said}, stored.stored(arrays))[1]
    stored.check_rows(made["a.weight"], truth(*first, np.arange(64) // 32))
    stored.check_rows(made["b.weight"], truth(*second, np.arange(64) // 64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packing_format": "auto_round:llm_compressor"}, "is 'auto_round:llm_compressor'; ggufpy knows"),
        ({"data_type": "mx_fp"}, "data_type is 'mx_fp'; ggufpy knows int"), ({"bits": 9}, "bits is 9"),
        ({"packing_format": "auto_round:auto_awq", "bits": 8}, "bits is 8; ggufpy knows 4, 5, 6, 7"),
        ({"rotation_config": {"hadamard_type": "hadamard"}}, "rotation_config is"),
        ({"group_size": 64}, "have 2 groups, and 64 columns in groups of 64"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(changes: Any, message: str) -> None:
    arrays = stored.gptq(*random(np.random.default_rng(7), 32, 64, 4, 32, True), 4)
    with pytest.raises(GGUFError, match=r"^[^\n]*$") as error:
        weight(arrays, changes)
    assert message in str(error.value)


def test_a_checkpoint_is_kept(tmp_path: Path) -> None:
    def make(rng: Any, out: int, columns: int) -> Any:
        q, scales, zeros = random(rng, out, columns, 3, 32, False)
        return stored.gptq(q, scales, zeros, 3), truth(q, scales, zeros, np.arange(columns) // 32)

    exact = stored.llama(tmp_path, {**CONFIG, "bits": 3}, make)
    path, report = stored.converted(tmp_path, keep=True)
    stored.check_file(path, exact, "Q4_0")
    assert any("kept without loss" in note for note in report.notes)
