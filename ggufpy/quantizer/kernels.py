"""Compiling encoders before the work begins, so that the wait is shown for what it is."""

from __future__ import annotations

from collections.abc import Iterable

from ggufpy import quants
from ggufpy.quantizer.options import Advance


def compile_kernels(wanted: Iterable[tuple[str, bool]], progress: Advance) -> None:
    """Make the encoders of these (type, weighted) ready; `progress` counts those that no cache holds, as "compile"."""
    from ggufpy.quants.encoding import encoder_kernel
    from ggufpy.quants.trial import tried

    blocks = [(quants.get(name), weighted) for name, weighted in sorted(wanted)]
    kernels = [encoder_kernel(block, weighted) for block, weighted in blocks if block.encoder in ("lanes", "blocks")]
    if kernels:
        tried(kernels, lambda done, total: progress("compile", done, total))
