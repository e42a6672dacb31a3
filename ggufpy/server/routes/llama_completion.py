"""POST /completion, /completions and /infill: llama-server's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ggufpy.api.llama import completion, fields, infill
from ggufpy.api.llama.numbers import OTHERS
from ggufpy.server.families.llama import LLAMA
from ggufpy.server.fields import check_names
from ggufpy.server.problems import NOT_SUPPORTED, Problem, TooLong
from ggufpy.server.routes import Route
from ggufpy.server.work import Prepared

if TYPE_CHECKING:
    from ggufpy.llm import Llama

Record = dict[str, Any]


def complete(llm: Llama, body: Record) -> Prepared:
    """What goes on from one prompt or several. Raises GGUFError or Problem for what cannot be."""
    check_names(body, fields.KNOWN, fields.REFUSED)
    return _prepared(llm, body, None)


def fill_in(llm: Llama, body: Record) -> Prepared:
    """What comes between two texts. Raises GGUFError or Problem for what cannot be."""
    check_names(body, fields.KNOWN | set(infill.FIELDS), fields.REFUSED)
    options = {name: value for name, value in body.items() if name not in (*infill.FIELDS, "prompt")}
    given = next((body[name] for name in ("n_predict", *fields.ALIASES) if body.get(name) is not None), -1)
    n_predict = int(OTHERS["n_predict"].check("n_predict", given))
    try:
        tokens = infill.tokens(llm, body, n_predict)
    except infill.NotSupported as error:
        raise Problem(NOT_SUPPORTED, str(error), "not_supported") from error
    return _prepared(llm, options, [tokens])


def _prepared(llm: Llama, body: Record, tokens: Sequence[Sequence[int]] | None) -> Prepared:
    try:
        call = completion.call(llm, body, tokens)
    except completion.LongPrompt as error:
        raise TooLong(str(error), error.tokens, error.holds) from error
    shape = call.shape
    return Prepared(call.asked, shape, call.stream, place=call.fields.place, account=shape.account)


ROUTES = (
    *(Route("POST", path, LLAMA, prepare=complete) for path in ("/completion", "/completions")),
    Route("POST", "/infill", LLAMA, prepare=fill_in),
)
