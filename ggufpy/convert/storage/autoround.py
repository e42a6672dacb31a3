"""AutoRound: the layouts of GPTQ and AWQ under its own name, with codes of up to 8 bits.

In: "quant_method": "auto-round" or "intel/auto-round", and "packing_format"
    auto_round:auto_gptq, auto_round:gptq   GPTQ with zeros less 1; the 1 is added to each code, 2^bits included
    auto_round, auto_round:gptqmodel        GPTQ with the zeros themselves
    auto_round:auto_awq, auto_round:awq     AWQ's "gemm", whose eights of codes may have 4 to 7 bits each
Out: weight (out, in) = (q - z) · s in float32, exact. The library (auto-round 0.16, `qlinear_torch`,
`qlinear_torch_zp`, `export_to_awq/utils`) rounds it to the dtype of its scales, f16. Codes of 5 to 7 bits go on from
one word to the next (`bit_packing`).

Settings of single layers ("extra_config") are read from shapes. Its formats of floats are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ggufpy.format.rows import Rows

from . import awq, gptq
from ._settings import Tensors, method, number, refuse, said, text

NAME = "AutoRound"
METHODS = ("auto-round", "intel/auto-round", "auto_round")
LIFTED = ("auto_round:auto_gptq", "auto_round:gptq", "auto")
PLAIN = ("auto_round", "auto_round:gptqmodel")
EIGHTS = ("auto_round:auto_awq", "auto_round:awq")
_GPTQ_BITS = (2, 3, 4, 5, 6, 7, 8)
_AWQ_BITS = (4, 5, 6, 7)


def claims(config: Mapping[str, Any], tensors: Tensors) -> bool:
    """Says one of METHODS."""
    return method(config) in METHODS


def decode(config: Mapping[str, Any], tensors: Tensors) -> Mapping[str, Rows]:
    """The weights by their names. GGUFError for settings that are not known and tensors that do not fit."""
    settings = said(config)
    packing = text(settings, "packing_format", LIFTED[0])
    if packing not in (*LIFTED, *PLAIN, *EIGHTS):
        raise refuse("packing_format", packing, (*LIFTED[:2], *PLAIN, *EIGHTS))
    if text(settings, "data_type", "int") != "int":
        raise refuse("data_type", settings["data_type"], ("int",))
    if settings.get("rotation_config"):
        raise refuse("rotation_config", settings["rotation_config"], ("none",))
    known = _AWQ_BITS if packing in EIGHTS else _GPTQ_BITS
    bits, group = number(settings, "bits", 4), number(settings, "group_size", 128)
    if bits not in known:
        raise refuse("bits", bits, known)
    varied = bool(settings.get("extra_config") or settings.get("dynamic"))
    if packing in EIGHTS:
        return awq.decoded(config, tensors, awq.Layout(bits, group, varied=varied))
    layout = gptq.Layout(bits, group, packing in LIFTED, words=False, varied=varied, known=_GPTQ_BITS)
    return gptq.decoded(config, tensors, layout)
