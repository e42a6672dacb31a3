"""What a text may look like: JSON schemas, GBNF, regular expressions, Lark; tokens that may come next.

In: a grammar as users write it (`Grammar`), and a model's tokenizer (`Vocabulary`). Out: which tokens may follow
(`Constraint`), over the `llguidance` library. Whatever cannot be held to is refused when a grammar is made, in one
line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.support.lazy import lazy

if TYPE_CHECKING:
    from ggufpy.grammar.constraint import Constraint
    from ggufpy.grammar.grammar import Grammar
    from ggufpy.grammar.schema import check_schema
    from ggufpy.grammar.vocabulary import Vocabulary

__all__ = ["Constraint", "Grammar", "Vocabulary", "check_schema"]

_HOME = {"Constraint": "constraint", "Grammar": "grammar", "Vocabulary": "vocabulary", "check_schema": "schema"}

__getattr__ = lazy(__name__, _HOME)
