"""Storage formats against the libraries that write them: quantised or packed there, decoded here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import stored
from stored import Bf16
from test_storage_awq import gemm

from ggufpy.convert import storage

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")


def arrays_of(state: Any) -> stored.Arrays:
    """A state dict as arrays; bfloat16 keeps its bits."""
    made: stored.Arrays = {}
    for name, value in state.items():
        if value.dtype == torch.bfloat16:
            made[name] = Bf16(np.zeros(0))
            made[name].array = value.detach().contiguous().view(torch.int16).numpy().view(np.uint16)
        else:
            made[name] = value.detach().contiguous().numpy()
    return made


def ours(config: Any, state: Any) -> Any:
    """The weight of module "m", by ggufpy."""
    _, made = storage.logical({"quantization_config": config}, stored.stored(stored.named("m", arrays_of(state))))
    return made["m.weight"].to_numpy()


# -- bitsandbytes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("shape", "block"), [((96, 128), 64), ((33, 65), 128)])
def test_bitsandbytes_of_four_bits(shape: Any, block: int, dtype: str, kind: str, nested: bool) -> None:
    library = pytest.importorskip("bitsandbytes").functional
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    codes, state = library.quantize_4bit(x, blocksize=block, quant_type=kind, compress_statistics=nested)
    parts = {"weight": codes} | {f"weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    made = ours({"quant_method": "bitsandbytes"}, parts)
    wanted = library.dequantize_4bit(codes, state)
    assert torch.equal(torch.from_numpy(made).to(wanted.dtype), wanted)


def test_bitsandbytes_of_eight_bits() -> None:
    library = pytest.importorskip("bitsandbytes").functional
    x = torch.randn((48, 96), generator=torch.Generator().manual_seed(0)).half()
    codes, largest, _ = library.int8_vectorwise_quant(x)
    parts = {"weight": codes, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    wanted = library.int8_vectorwise_dequant(codes, largest)
    np.testing.assert_array_equal(ours({"quant_method": "bitsandbytes"}, parts), wanted.numpy())


# -- HQQ -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seen_as_float", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bits", [8, 4, 3, 2, 1])
def test_hqq(bits: int, axis: int, seen_as_float: bool) -> None:
    library = pytest.importorskip("hqq.core.quantize")
    torch.manual_seed(bits)
    for dtype in (torch.float32, torch.float16):
        layer = torch.nn.Linear(128, 96, bias=False)
        config = library.BaseQuantizeConfig(nbits=bits, group_size=64, axis=axis, view_as_float=seen_as_float)
        quantised = library.HQQLinear(layer, config, compute_dtype=dtype, device="cpu")
        state = {name: value for name, value in quantised.state_dict().items() if value is not None}
        wanted = quantised.dequantize().float().numpy()
        made = ours({"quant_method": "hqq"}, state)
        if dtype == torch.float32:
            np.testing.assert_array_equal(made, wanted)
        else:  # the difference is rounded, and the product
            assert np.abs(made - wanted).max() <= np.abs(made).max() * 2.0**-10


# -- AutoRound, and with it the layouts of GPTQ and AWQ --------------------------------------------------------


def values(bits: int, symmetric: bool) -> Any:
    """A layer whose weights are (q - z) · s, scales and zeros (out, groups) or one zero for all."""
    rng = torch.Generator().manual_seed(bits)
    out, columns, size = 64, 128, 32
    scales = (torch.rand((out, columns // size), generator=rng) / 8 + 0.01).half().float()
    zeros = torch.randint(1, 1 << bits, scales.shape, generator=rng).float()
    if symmetric:
        zeros = torch.full_like(zeros, 1 << (bits - 1))
    q = torch.randint(0, 1 << bits, (out, columns), generator=rng)
    layer = torch.nn.Linear(columns, out, bias=False)
    layer.weight.data = (q - zeros.repeat_interleave(size, 1)) * scales.repeat_interleave(size, 1)
    return layer, scales, int(zeros[0, 0]) if symmetric else zeros


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("module", ["qlinear_torch", "qlinear_torch_zp"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_auto_round(bits: int, module: str, symmetric: bool) -> None:
    library = pytest.importorskip(f"auto_round_extension.torch.{module}")
    layer, scales, zeros = values(bits, symmetric)
    packed = library.QuantLinear(bits, 32, 128, 64, bias=False)
    packed.device = torch.device("cpu")
    packed.pack(layer, scales, zeros)
    packing = "auto_round" if module == "qlinear_torch" else "auto_round:auto_gptq"
    config = {"quant_method": "auto-round", "bits": bits, "group_size": 32, "packing_format": packing}
    made = ours(config, packed.state_dict())
    np.testing.assert_array_equal(made, layer.weight.detach().numpy())
    packed.scales = packed.scales.float()  # so that its products are not rounded
    wanted = packed(torch.eye(128)).T
    np.testing.assert_array_equal(made, wanted.numpy())
    if module == "qlinear_torch_zp" and bits in (2, 3, 4, 8):  # GPTQ's own layout: no zero here is 0
        said = {"quant_method": "gptq", "bits": bits, "group_size": 32}
        if symmetric:
            np.testing.assert_array_equal(ours(said, packed.state_dict()), wanted.numpy())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 5, 6, 7])
def test_auto_round_as_awq(bits: int, symmetric: bool) -> None:
    library = pytest.importorskip("auto_round.export.export_to_awq.utils")
    layer, scales, zeros = values(bits, symmetric)
    turned = zeros if symmetric else zeros.T.contiguous()
    packed = library.WQLinear_GEMM.from_linear(layer, bits, 32, False, scales.T.contiguous(), turned, device="cpu")
    wanted = library.dequantize_gemm(packed.qweight, packed.qzeros, packed.scales.float(), bits, 32).T.numpy()
    config = {"quant_method": "auto-round", "bits": bits, "group_size": 32, "packing_format": "auto_round:auto_awq"}
    made = ours(config, packed.state_dict())
    np.testing.assert_array_equal(made, wanted)
    if bits == 4:
        said = {"quant_method": "awq", "bits": 4, "group_size": 32}
        np.testing.assert_array_equal(ours(said, packed.state_dict()), made)


@pytest.mark.parametrize("symmetric", [True, False])
def test_autoawq(symmetric: bool) -> None:
    library = pytest.importorskip("awq.utils.packing_utils")
    layer, scales, zeros = values(4, symmetric)
    zeros = np.full((4, 64), zeros) if symmetric else zeros.T.numpy().astype(int)
    q = np.rint(layer.weight.detach().numpy() / scales.repeat_interleave(32, 1).numpy()) + np.repeat(zeros.T, 32, 1)
    state = {name: torch.from_numpy(x) for name, x in gemm(q.astype(int), scales.T.half().numpy(), zeros).items()}
    wanted = library.dequantize_gemm(state["qweight"], state["qzeros"], state["scales"].float(), 4, 32).T.numpy()
    np.testing.assert_array_equal(ours({"quant_method": "awq", "bits": 4, "group_size": 32}, state), wanted)


# -- GPTQModel -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptqmodel(bits: int, symmetric: bool, ordered: bool) -> None:
    library = pytest.importorskip("gptqmodel.nn_modules.qlinear.torch")
    convert = pytest.importorskip("gptqmodel.utils.model").convert_gptq_v1_to_v2_format_module
    rng = np.random.default_rng(bits)
    q, zeros = rng.integers(0, 1 << bits, (64, 128)), rng.integers(0, 1 << bits, (4, 64))
    scales = (rng.random((4, 64)) / 8).astype(np.float32)
    zeros = np.full_like(zeros, 1 << (bits - 1)) if symmetric else zeros
    arrays = stored.gptq(q, scales, zeros, bits)
    order = np.arange(128) // 32
    arrays["g_idx"] = (rng.permutation(order) if ordered else order).astype(np.int32)
    layer = library.TorchLinear(
        bits=bits, group_size=32, sym=symmetric, desc_act=ordered, in_features=128, out_features=64, bias=False,
        pack_dtype=torch.int32, register_buffers=True,
    )  # fmt: skip
    state = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    for name, value in state.items():
        setattr(layer, name, value)
    made = ours({"quant_method": "gptq", "bits": bits, "group_size": 32, "desc_act": ordered}, state)
    convert(layer, bits, torch.int32)
    layer.post_init()
    np.testing.assert_array_equal(made, layer.dequantize_weight().T.numpy())
