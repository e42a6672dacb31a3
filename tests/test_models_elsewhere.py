"""Plans whose experts are run elsewhere: the same logits, and no weight of theirs that the layers themselves need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
from families_near_llama import FAMILIES
from test_models_families2 import source as of_other

from ggufpy import format as gguf
from ggufpy.backends.cpu.model import read_plan
from ggufpy.models.elsewhere import Awaited, Elsewhere, elsewhere, mixtures, plan_of, with_experts_elsewhere
from ggufpy.models.interpreter import Interpreter
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import Add, ExpertMatMul, Gate, MatMul, Norm, Route
from ggufpy.models.plan import Plan

TOKENS = [2, 5, 30, 7, 7, 0, 11, 30, 31, 8, 9]
NEAR = [name for name, (config, _) in FAMILIES.items() if any("expert" in key for key in config)]
OTHERS = ("gpt-oss", "glm4moe", "ernie4_5-moe")


def read(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, dict[str, Any]]:
    if name in OTHERS:
        file = of_other(name)
        return read_plan(file, 32), {key: value.to_numpy() for key, value in file.tensors.items()}
    with gguf.open(families.write(folder / "m.gguf", *FAMILIES[name], monkeypatch)) as file:
        return read_plan(file, 32), {key: value.to_numpy() for key, value in file.tensors.items()}


@pytest.mark.parametrize("name", [*NEAR, *OTHERS])
def test_logits_are_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, values = read(name, tmp_path, monkeypatch)
    count = mixtures(plan)
    assert count >= 1
    exact = Interpreter(plan, values).logits(TOKENS)
    for layers in (0, 1, 2, len(plan.layers), 99):
        changed = with_experts_elsewhere(plan, layers)
        np.testing.assert_allclose(Interpreter(changed, values).logits(TOKENS), exact, rtol=1e-9, atol=1e-12)
    moved = plan_of(changed)
    assert len(moved.layers) == len(elsewhere(changed)) == count
    assert {**changed.weights, **moved.weights} == plan.weights
    assert all("_exps" in weight or "exp_probs_b" in weight for weight in moved.weights)
    assert not any(isinstance(op, Route | ExpertMatMul) for op in changed.body)


@pytest.mark.parametrize("name", ["qwen2moe", "glm4moe", "ernie4_5-moe"])
def test_what_all_tokens_share_is_computed_meanwhile(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, _ = read(name, tmp_path, monkeypatch)
    for ops in with_experts_elsewhere(plan, 99).layers:
        kinds = [type(op) for op in ops]
        if Elsewhere in kinds:
            between = ops[kinds.index(Elsewhere) + 1 : kinds.index(Awaited)]
            names = [weight.name for op in between for weight in op.weights]
            assert any("ffn_down_shexp" in each for each in names), name


def test_layers_without_experts_stay() -> None:
    plan = read_plan(of_other("glm4"), 32)
    assert mixtures(plan) == 0
    assert with_experts_elsewhere(plan, 9) == plan
    assert plan_of(plan).layers == ()


def test_only_the_first_layers_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, _ = read("qwen3moe", tmp_path, monkeypatch)
    changed = with_experts_elsewhere(plan, 2)
    assert [op.number for op in elsewhere(changed)] == [0, 1]
    assert changed.layers[2] == plan.layers[2]
    assert [op.number for op in elsewhere(changed.part(1, 3))] == [1]


def _mixture(out: str, add: bool, *behind: Op) -> tuple[Op, ...]:
    down = ExpertMatMul("ffn", "chosen", Weight("d", (4, 8, 8)), out, 2, own=True, shares="shares", add=add)
    return (
        Norm("x", Weight("n", (8,)), "norm", 1e-5), MatMul("norm", Weight("r", (4, 8)), "router"),
        Route("router", 4, "chosen", "shares", 2), ExpertMatMul("norm", "chosen", Weight("u", (4, 8, 8)), "up", 2),
        Gate("up", None, "ffn", 16, "relu"), down, *behind,
    )  # fmt: skip


def _kinds(*ops: Op) -> list[str]:
    base = read_plan(of_other("glm4"), 32)
    (changed,) = with_experts_elsewhere(replace(base, layers=(ops,)), 1).layers
    return [type(op).__name__ for op in changed]


BEGUN = ["Norm", "MatMul", "Elsewhere"]


def test_when_it_is_awaited() -> None:
    added = MatMul("norm", Weight("s", (8, 8)), "x", add=True)
    shared = MatMul("norm", Weight("s", (8, 8)), "shared")
    assert _kinds(*_mixture("x", True)) == [*BEGUN, "Awaited", "Add"]
    assert _kinds(*_mixture("x", True, added, shared)) == [*BEGUN, "MatMul", "MatMul", "Awaited", "Add"]
    # What reads x waits, and so does what writes it anew or adds to a mixture that is added to nothing.
    reads = Norm("x", None, "other", 1e-5, length=8)
    assert _kinds(*_mixture("x", True, added, reads)) == [*BEGUN, "MatMul", "Awaited", "Add", "Norm"]
    assert _kinds(*_mixture("x", True, Add("x", "x", 8))) == [*BEGUN, "Awaited", "Add", "Add"]
    assert _kinds(*_mixture("x", True, replace(shared, x="x"))) == [*BEGUN, "Awaited", "Add", "MatMul"]
    assert _kinds(*_mixture("x", True, replace(shared, y="x"))) == [*BEGUN, "Awaited", "Add", "MatMul"]
    assert _kinds(*_mixture("out", False, shared, replace(added, y="out"))) == [*BEGUN, "MatMul", "Awaited", "MatMul"]
    assert _kinds(*_mixture("out", False, Add("out", "x", 8))) == [*BEGUN, "Awaited", "Add"]


def test_what_is_read_of_a_mixture_that_is_elsewhere() -> None:
    again = Gate("up", None, "more", 16, "relu")
    with pytest.raises(ValueError, match=r"reads \['up'\] of a mixture that is elsewhere"):
        _kinds(*_mixture("x", True, again))
    anew = MatMul("norm", Weight("s", (16, 8)), "up")
    assert _kinds(*_mixture("x", True, anew, again)) == [*BEGUN, "MatMul", "Gate", "Awaited", "Add"]


def test_layers_of_several_mixtures_stay() -> None:
    one = _mixture("x", True)
    assert "Elsewhere" not in _kinds(*one, *one)
    *others, down = one
    assert isinstance(down, ExpertMatMul)
    assert "Elsewhere" not in _kinds(*others, down, replace(down, y="out", add=False))


def test_nothing_is_awaited_that_was_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, values = read("qwen3moe", tmp_path, monkeypatch)
    wrong = replace(plan, layers=((Awaited("x", 64), *plan.layers[0]),))
    with pytest.raises(ValueError, match="nothing elsewhere leaves x"):
        Interpreter(wrong, values).logits(TOKENS)
