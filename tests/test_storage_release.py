"""What was read of a quantised tensor is given back: all parts of it, whatever the format."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from storing import decode

from ggufpy.convert.safetensors import Stored


def zeros(dtype: str, *shape: int) -> tuple[str, Any]:
    kinds = {"F32": "f4", "I32": "i4", "U32": "u4", "I8": "i1"}
    return dtype, np.zeros(shape, kinds.get(dtype, "u1"))


def said(method: str, **more: Any) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": method, **more}}


STACK = "layers.0.mlp.experts.up_proj"
# config.json, tensors of which all but those of SAID_ONLY are mapped while rows are read, and what they make.
FORMATS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "mlx": ({"quantization": {"bits": 4, "group_size": 64}},
            {"a.weight": zeros("U32", 2, 8), "a.scales": zeros("F32", 2, 1), "a.biases": zeros("F32", 2, 1)},
            "a.weight"),
    "fp8": (said("fp8"), {"a.weight": zeros("F8_E4M3", 2, 32), "a.weight_scale": zeros("F32", 2)}, "a.weight"),
    "int8": (said("compressed-tensors"), {"a.weight": zeros("I8", 2, 32), "a.weight_scale": zeros("F32", 2, 1)},
             "a.weight"),
    "packed": (said("compressed-tensors"),
               {"a.weight_packed": zeros("I32", 32, 8), "a.weight_scale": zeros("F32", 32, 2),
                "a.weight_zero_point": zeros("I32", 4, 2), "a.weight_shape": ("I64", np.array([32, 64]))}, "a.weight"),
    "stacks": (said("compressed-tensors", config_groups={"a": {"weights": {"num_bits": 4}}}),
               {f"{STACK}_packed": zeros("I32", 3, 4, 8), f"{STACK}_scale": zeros("F32", 3, 4, 2)}, f"{STACK}.weight"),
    "mxfp4": (said("mxfp4"), {"a_blocks": zeros("U8", 2, 2, 16), "a_scales": zeros("U8", 2, 2)}, "a.weight"),
    "gptq": (said("gptq", bits=4, group_size=32),
             {"a.qweight": zeros("I32", 8, 8), "a.qzeros": zeros("I32", 2, 1), "a.scales": zeros("F32", 2, 8)},
             "a.weight"),
    "awq": (said("awq", bits=4, group_size=32),
            {"a.qweight": zeros("I32", 64, 1), "a.qzeros": zeros("I32", 2, 1), "a.scales": zeros("F32", 2, 8)},
            "a.weight"),
    "bitnet": (said("bitnet"), {"a.weight": zeros("U8", 2, 256), "a.weight_scale": ("F32", np.ones(1, "f4"))},
               "a.weight"),
}  # fmt: skip
SAID_ONLY = {"a.weight_shape"}


@pytest.mark.parametrize("name", FORMATS)
def test_all_parts_are_released(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, tensors, key = FORMATS[name]
    rows = decode(config, tensors)[1][key]
    released: list[str] = []
    monkeypatch.setattr(Stored, "release", lambda stored: released.append(stored.name))
    wanted = set(tensors) - SAID_ONLY - ({"a.weight_scale"} if name == "bitnet" else set())
    for face in (rows, rows.exact, rows.near):
        released.clear()
        if face is not None:
            face.release()
            assert set(released) == wanted
    assert rows.exact is not None or rows.near is not None
