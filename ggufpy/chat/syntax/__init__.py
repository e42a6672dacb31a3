"""What models write besides content, thoughts and calls of tools, taken apart as it comes.

`syntax_of` looks at what a template writes. A family that is known has a module in `families`; for the rest the
syntax is learned from renderings with and without a thought or a call. A template that does not tell of tools gets a
syntax with `instructions` for a system message.

How a text is taken apart:
- White space around thoughts and calls goes; the rest of the text is content as it stands.
- A call is said once its name is complete and on offer and its arguments begin. What fails before that is content,
  calls of tools that are not offered among it. Arguments that go wrong later stay as far as they came: a client sees
  JSON that does not parse, as with OpenAI's service. A whole answer is the joined pieces of a stream.
- A text that begins a call within a thought begins one only if the thought never ends.
- Thoughts begin a message or follow a thought or a call; elsewhere the same text is content.
- An id is the model's own where it writes one before the arguments, else it is made.
"""

from __future__ import annotations

from ggufpy.chat.syntax.base import Parser, Syntax
from ggufpy.chat.syntax.choice import syntax_of
from ggufpy.chat.syntax.pieces import Arguments, Call, Content, Piece, Thought

__all__ = ["Arguments", "Call", "Content", "Parser", "Piece", "Syntax", "Thought", "syntax_of"]
