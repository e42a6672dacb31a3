"""Memory of keys and values on a device: pages of 128 positions, by group of layers.

A layer has keys [page][head][a head's page], then values likewise. A head's page, as `kernels/kv.cuh` reads it:

    f16, bf16   rows [128][length]
    q8_0        codes int8 [128][length], then f16 scales [128][length / 32]
    q4_0        codes [128][length / 2], of each 32 dimensions i below and i + 16 above; then scales as q8_0

So codes of a position are whole blocks of 16 bytes, whatever the type.
"""

from __future__ import annotations

from ggufpy.models.ops import Heads
from ggufpy.support.records import dataclass


@dataclass(frozen=True)
class LayerCache:
    """Where a layer's keys and values are: addresses, bytes of a page of all heads and of one head's, types by name.

    `group` is the row of `StepAddresses.tables` that says where page tables of the layer's group begin.
    """

    keys: int
    values: int
    key_page: int
    value_page: int
    key_head: int
    value_head: int
    key_type: str
    value_type: str
    heads: Heads
    group: int

    @property
    def constants(self) -> tuple[tuple[str, str | int], ...]:
        """Constants of kernels that read or write it through `KvHead` (`kernels/kv.cuh`)."""
        return (
            ("KEY_TYPE", f"kv_{self.key_type}"), ("VALUE_TYPE", f"kv_{self.value_type}"),
            ("KEY_LENGTH", self.heads.key_length), ("VALUE_LENGTH", self.heads.value_length),
        )  # fmt: skip
