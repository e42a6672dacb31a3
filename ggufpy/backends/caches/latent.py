"""What all heads share of a position, from which keys and values are made (multi-head latent attention): one row.

Source: DeepSeek-V2, section 2.1 (https://arxiv.org/abs/2405.04434).
"""

from __future__ import annotations

from ggufpy.support.records import dataclass

from .kv import Kv


@dataclass(frozen=True)
class Latent(Kv):
    """Pages of all positions, of a single row each: to a sequence they are as those of keys and values."""

    @property
    def layers(self) -> str:
        return "layers that share a latent row"
