"""Parts of layers that most architectures share: products, norms, attention, feed-forward parts, experts.

In: the tensors of a layer, by the names that llama.cpp gives them, and what metadata says of them. Out: ops, of which
an architecture's module makes its layers. Attention reads "norm" and leaves "attn" (tokens, heads · value length);
feed-forward parts read "norm", too, and are added to "x" (tokens, width) or left in "out" for who does more with them.
Facts: create_tensor_qkv in src/llama-model.cpp, build_ffn and build_moe_ffn in src/llama-graph.cpp of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

from .base import Inventory, Keys, vocabulary_of
from .op import Op, Weight
from .ops import (
    Add,
    Attend,
    Embed,
    ExpertMatMul,
    Gate,
    MatMul,
    Norm,
    Rope,
    Rotate,
    Route,
    Scale,
    SoftCap,
    StoreKv,
    View,
)
from .plan import Plan

if TYPE_CHECKING:
    from .llama import Config

NormKind = Literal["rms", "layer"]
Activation = Literal["silu", "gelu", "gelu_erf", "relu", "relu2", "clamped"]
Routing = Literal["softmax", "sigmoid", "softmax_of_chosen"]
_ROUTING: dict[int, Routing] = {1: "softmax", 2: "sigmoid", 3: "softmax_of_chosen"}
LAYER_EPS = "attention.layer_norm_epsilon"


@dataclass(frozen=True)
class Experts:
    """A mixture: how many experts there are, how many of them a token uses, and the width of each one's part.

    `shared` is the width of what every token uses besides, `dense` how many layers at the beginning have no experts.
    Others are as `Route` says.
    """

    count: int
    used: int
    hidden: int
    shared: int = 0
    dense: int = 0
    kind: Routing = "softmax"
    groups: int = 1
    groups_used: int = 1
    renormalised: bool = True
    scale: float = 1.0


def read_experts(keys: Keys, c: Config, kind: Routing = "softmax", renormalised: bool = True) -> Experts:
    """What metadata says of experts; `kind` and `renormalised` where it does not.

    Raises GGUFError for a value that is missing or inconsistent.
    """
    count, used = keys.count("expert_count"), keys.count("expert_used_count")
    if used > count:
        raise GGUFError(f"{keys.architecture}.expert_used_count is {used}, of {count} experts")
    hidden = keys.count("expert_feed_forward_length", 0, least=0) or c.hiddens[0] // used
    if not hidden:
        raise GGUFError(f"the metadata has no {keys.architecture}.expert_feed_forward_length")
    gating = keys.count("expert_gating_func", 0, least=0)
    if gating and gating not in _ROUTING:
        raise GGUFError(f"{keys.architecture}.expert_gating_func is {gating}; ggufpy knows 1, 2 and 3")
    groups = keys.count("expert_group_count", 1, least=0) or 1
    groups_used = min(keys.count("expert_group_used_count", groups, least=0) or groups, groups)
    if count % groups or used > count // groups * groups_used:
        raise GGUFError(f"{used} of {count} experts cannot be of {groups_used} of {groups} groups")
    return Experts(
        count, used, hidden,
        shared=keys.count("expert_shared_feed_forward_length", keys.count("expert_shared_count", 0, 0) * hidden, 0),
        dense=keys.count("leading_dense_block_count", 0, least=0),
        kind=_ROUTING.get(gating, kind),
        groups=groups,
        groups_used=groups_used,
        renormalised=keys.flag("expert_weights_norm", renormalised),
        scale=keys.number("expert_weights_scale", 1.0, or_zero=True) or 1.0,
    )  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """Makes ops of the tensors of layer `i`. `kind` is that of its norms."""

    i: int
    c: Config
    tensors: Inventory
    kind: NormKind = "rms"

    def __contains__(self, name: str) -> bool:
        return f"blk.{self.i}.{name}" in self.tensors

    def weight(self, name: str, *shape: int) -> Weight:
        """A tensor that must be there."""
        return self.tensors.weight(f"blk.{self.i}.{name}", *shape)

    def product(self, x: str, name: str, y: str, shape: tuple[int, int], add: bool = False) -> MatMul:
        """With a matrix (rows, columns), and with its bias where there is one."""
        bias = self.tensors.optional(f"blk.{self.i}.{name}.bias", shape[0])
        return MatMul(x, self.weight(f"{name}.weight", *shape), y, bias, add)

    def norm(self, name: str, x: str = "x", y: str = "norm", width: int = 0) -> Norm:
        """Of a row, with its bias where there is one."""
        width = width or self.c.width
        bias = self.tensors.optional(f"blk.{self.i}.{name}.bias", width)
        return Norm(x, self.weight(f"{name}.weight", width), y, self.c.eps, kind=self.kind, bias=bias)

    def head_norm(self, name: str, x: str, heads: int) -> Iterator[Norm]:
        """Of each head, in place, where the layer has such a norm: one for all heads, or one each (heads, length)."""
        if f"{name}.weight" not in self:
            return
        length = self.c.key_length
        each = len(self.tensors.shape(f"blk.{self.i}.{name}.weight")) == 2
        weight = self.weight(f"{name}.weight", *((heads, length) if each else (length,)))
        yield Norm(x, weight, x, self.c.eps, heads, self.kind)

    def must_have_head_norms(self) -> None:
        """Raises GGUFError for a layer without norms of queries and keys by head."""
        for name in ("attn_q_norm.weight", "attn_k_norm.weight"):
            self.weight(name, self.c.key_length)

    def qkv(self, x: str = "norm") -> Iterator[Op]:
        """Queries, keys and values, by one fused matrix or by three."""
        h = self.c.heads_of(self.i)
        q, k, v = h.queries * h.key_length, h.shared * h.key_length, h.shared * h.value_length
        if "attn_qkv.weight" in self:
            yield self.product(x, "attn_qkv", "qkv", (q + k + v, self.c.width))
            yield View("qkv", 0, q, "q")
            yield View("qkv", q, k, "k")
            yield View("qkv", q + k, v, "v")
            return
        yield self.product(x, "attn_q", "q", (q, self.c.width))
        yield self.product(x, "attn_k", "k", (k, self.c.width))
        yield self.product(x, "attn_v", "v", (v, self.c.width))

    def head_norms(self) -> Iterator[Op]:
        """Norms of queries and keys, where there are such."""
        h = self.c.heads_of(self.i)
        yield from self.head_norm("attn_q_norm", "q", h.queries)
        yield from self.head_norm("attn_k_norm", "k", h.shared)

    def rotate(self, rope: Rope) -> Iterator[Op]:
        """Queries and keys by their positions."""
        h = self.c.heads_of(self.i)
        yield Rotate("q", h.queries, h.key_length, rope)
        yield Rotate("k", h.shared, h.key_length, rope)

    def attend(
        self, window: int = 0, sinks: bool = False, scale: float = 0.0, softcap: float = 0.0, causal: bool = True
    ) -> Iterator[Op]:
        """Keys and values are kept, queries attend to them; `scale` 0 stands for 1 / √key length."""
        h = self.c.heads_of(self.i)
        weight = self.weight("attn_sinks.weight", h.queries) if sinks else None
        yield StoreKv(self.i, "k", "v", h)
        yield Attend(self.i, "q", "attn", h, scale or 1.0 / h.key_length**0.5, window, softcap, weight, causal)

    def attention(self, rope: Rope | None, x: str = "norm", window: int = 0) -> Iterator[Op]:
        """From x to "attn", with norms of heads where there are such. Without `rope` positions are not told apart."""
        yield from self.qkv(x)
        yield from self.head_norms()
        if rope is not None:
            yield from self.rotate(rope)
        yield from self.attend(window)

    def output(self, y: str = "x", add: bool = True) -> MatMul:
        """What attention gives, to the residual stream."""
        h = self.c.heads_of(self.i)
        return self.product("attn", "attn_output", y, (self.c.width, h.queries * h.value_length), add)

    def added(self, name: str = "", scale: float = 1.0) -> Iterator[Op]:
        """ "out" to the residual stream, through a norm where it has a `name`, times `scale`."""
        width = self.c.width
        if name:
            yield self.norm(name, "out", "out")
        if scale != 1.0:
            yield Scale("out", width, scale)
        yield Add("out", "x", width)

    def gated(self, hidden: int, x: str = "norm", kind: Activation = "silu", end: str = "") -> Iterator[Op]:
        """Gate and up and what they make together, "ffn" (tokens, hidden); in one matrix, ffn_up, or in two."""
        up = f"ffn_up{end}.weight"
        both = up in self and self.tensors.shape(f"blk.{self.i}.{up}")[0] == 2 * hidden
        if f"ffn_gate{end}.weight" in self or not both:
            yield self.product(x, f"ffn_gate{end}", "gate", (hidden, self.c.width))
            yield self.product(x, f"ffn_up{end}", "up", (hidden, self.c.width))
        else:
            yield self.product(x, f"ffn_up{end}", "gate_up", (2 * hidden, self.c.width))
            yield View("gate_up", 0, hidden, "gate")
            yield View("gate_up", hidden, hidden, "up")
        yield Gate("gate", "up", "ffn", hidden, kind)

    def feed_forward(
        self,
        hidden: int = 0,
        y: str = "x",
        add: bool = True,
        end: str = "",
        x: str = "norm",
        kind: Activation = "silu",
    ) -> Iterator[Op]:
        """A gated feed-forward part of x; `end` is what its tensors' names end with."""
        hidden = hidden or self.c.hiddens[self.i]
        yield from self.gated(hidden, x, kind, end)
        yield self.product("ffn", f"ffn_down{end}", y, (self.c.width, hidden), add)

    def plain_feed_forward(self, kind: Activation, x: str = "norm") -> Iterator[Op]:
        """Up, f and down, without a gate, added to x."""
        hidden = self.c.hiddens[self.i]
        yield self.product(x, "ffn_up", "up", (hidden, self.c.width))
        yield Gate("up", None, "ffn", hidden, kind)
        yield self.product("ffn", "ffn_down", "x", (self.c.width, hidden), add=True)

    def experts(self, e: Experts, kind: Activation = "silu", out: str = "x") -> Iterator[Op]:
        """A mixture of experts, and what all tokens share where there is such, added to x or left in `out`."""
        width, used = self.c.width, e.used
        bias = self.tensors.optional(f"blk.{self.i}.exp_probs_b.bias", e.count)
        yield self.product("norm", "ffn_gate_inp", "router", (e.count, width))
        yield Route("router", e.count, "chosen", "shares", used, e.kind, bias, e.groups, e.groups_used, e.renormalised,
                    e.scale)  # fmt: skip
        for name, y in (("ffn_gate_exps", "gate"), ("ffn_up_exps", "up")):
            yield self._of_experts("norm", name, y, (e.count, e.hidden, width), used)
        yield Gate("gate", "up", "ffn", used * e.hidden, kind)
        yield self._of_experts("ffn", "ffn_down_exps", out, (e.count, width, e.hidden), used)
        if e.shared:
            yield from self.feed_forward(e.shared, out, end="_shexp")

    def _of_experts(self, x: str, name: str, y: str, shape: tuple[int, int, int], used: int) -> ExpertMatMul:
        """Products of those chosen; "down" is their sum by shares, added to x."""
        weight, last = self.weight(f"{name}.weight", *shape), name == "ffn_down_exps"
        bias = self.tensors.optional(f"blk.{self.i}.{name}.bias", *shape[:2])
        return ExpertMatMul(x, "chosen", weight, y, used, bias, last, "shares" if last else None, y == "x")


def leave_out_nextn(keys: Keys, c: Config, table: Inventory) -> None:
    """Leaves out the layers that predict further tokens, where the file says that it has some."""
    if keys.count("nextn_predict_layers", 0, least=0):
        table.skip_layers(c.layers)


@dataclass(frozen=True)
class Ends:
    """What comes before and after the layers: factors of embeddings and logits, the kind of all norms, and beyond what
    logits do not go (0: no such bound). `positions`: tokens have learned positions, and a type if the file has types.
    `encodes`: there is no output matrix, and `last_norm` says whether there is a norm after the last layer."""

    embedding: float = 1.0
    logits: float = 1.0
    kind: NormKind = "rms"
    softcap: float = 0.0
    positions: bool = False
    encodes: bool = False
    last_norm: bool = True


def model(c: Config, table: Inventory, make: Callable[[Layer], Iterable[Op]], ends: Ends | None = None) -> Plan:
    """A plan of layers that `make` makes, between embedding and output matrix, which may be the same.

    Raises GGUFError for tensors that are missing, and for those that the plan does not use.
    """
    ends = ends or Ends()
    embed = _embed(c, table, ends)
    layers = tuple(tuple(make(Layer(i, c, table, ends.kind))) for i in range(c.layers))
    head = _head(c, table, ends, embed.weight)
    table.finish()
    return Plan(c.context, embed.weight.shape[0], embed, layers, head)


def _embed(c: Config, table: Inventory, ends: Ends) -> Embed:
    weight = table.weight("token_embd.weight", vocabulary_of(table.tensors), c.width)
    positions = table.weight("position_embd.weight", c.context, c.width) if ends.positions else None
    types = None
    if "token_types.weight" in table:
        types = table.weight("token_types.weight", table.rows("token_types.weight"), c.width)
    return Embed(weight, "x", ends.embedding, positions, types)


def _head(c: Config, table: Inventory, ends: Ends, embedding: Weight) -> tuple[Op, ...]:
    """The last norm and the logits, as far as there are such."""
    vocabulary = embedding.shape[0]
    head: tuple[Op, ...] = ()
    if ends.last_norm:
        bias = table.optional("output_norm.bias", c.width)
        weight = table.weight("output_norm.weight", c.width)
        head = (Norm("x", weight, "norm", c.eps, kind=ends.kind, bias=bias),)
    if ends.encodes:
        return head
    output = table.optional("output.weight", vocabulary, c.width) or embedding
    head = (*head, MatMul("norm", output, "logits", table.optional("output.bias", vocabulary)))
    if ends.logits != 1.0:
        head = (*head, Scale("logits", vocabulary, ends.logits))
    if ends.softcap:
        head = (*head, SoftCap("logits", vocabulary, ends.softcap))
    return head
