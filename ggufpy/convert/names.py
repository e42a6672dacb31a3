"""Names of tensors as fine-tuning tools, compilers and multimodal models change them, back to what rules know."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from typing import TypeVar

from ggufpy.errors import GGUFError
from ggufpy.format.values import shown

T = TypeVar("T")
# What wraps a module and stands anywhere in a name: torch.compile, FSDP, DDP, PEFT with a merged base.
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module|base_model\.model|base_layer"
    r"|modules_to_save\.default|original_module)\."
)
_WITHIN = 8  # wrappers that may show once others are off
# The text half of a multimodal model, by where its tensors are.
_TEXT = (
    (re.compile(r"^(?:model\.)?language_model\.lm_head\."), "lm_head."),
    (re.compile(r"^(?:model\.)?language_model\.model\."), "model."),
    (re.compile(r"^(?:model\.)?(?:language_model|text_model)\."), "model."),
    (re.compile(r"^(?:thinker|llm)\."), ""),
)
_NOT_TEXT = re.compile(
    r"(?:^|\.)(?:vision|visual|image|audio|speech|vit|vpm|siglip|merger|resampler|talker|token2wav|code2wav|sound"
    r"|multi_modal_projector|mm_projector|embed_vision|embed_audio|connector|multimodal|patch_embed)[a-z0-9_]*\."
)


def not_text(name: str) -> bool:
    """Whether a tensor is of the parts of a multimodal model that see or hear."""
    return _NOT_TEXT.search(name) is not None


def canonical(tensors: Mapping[str, T], anchor: str) -> dict[str, T]:
    """Tensors by the names that rules have. `anchor` is what all names of rules begin with, "|", and the rest of the
    name of a tensor that is always there: what this checkpoint has before that takes the place of the beginning.

    Raises GGUFError where two names become one.
    """
    names = {name: _unwrapped(name) for name in tensors}
    names = _with_prefix(names, anchor)
    made: dict[str, T] = {}
    for name, tensor in tensors.items():
        if names[name] in made:
            raise GGUFError(f"tensors {shown(name)} and another both stand for {shown(names[name])}")
        made[names[name]] = tensor
    return made


def placed(tensors: Mapping[str, T], known: Container[str], anchor: str) -> dict[str, T]:
    """An adapter's tensors by the names that the model `known` has: one of a body alone lacks what all begin with."""
    first = anchor.partition("|")[0]
    return {
        first + name if name not in known and first + name in known else name: tensor
        for name, tensor in tensors.items()
    }


def _unwrapped(name: str) -> str:
    for _ in range(_WITHIN):
        name = _WRAPPERS.sub("", name)
    if not_text(name):
        return name
    for pattern, plain in _TEXT:
        name = pattern.sub(plain, name, count=1)
    return name


def _with_prefix(names: dict[str, str], anchor: str) -> dict[str, str]:
    """Bodies saved without their head have no "model."; other tools put something of their own there."""
    wanted, _, tail = anchor.partition("|")
    prefix = _before(names.values(), tail)
    if prefix is None or prefix == wanted:
        return names
    out = {}
    for stored, name in names.items():
        body = name.startswith(prefix) and not name.startswith("lm_head.")
        out[stored] = wanted + name[len(prefix) :] if body else name
    return out


def _before(names: Iterable[str], tail: str) -> str | None:
    """What stands before `tail` in the one name that ends with it; None where no or several names do."""
    ends = [name for name in names if name == tail or name.endswith(f".{tail}")]
    return ends[0][: len(ends[0]) - len(tail)] if len(ends) == 1 else None
