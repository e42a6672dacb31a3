"""Which syntax a template's models write."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from ggufpy.chat.syntax import families
from ggufpy.chat.syntax.base import Syntax
from ggufpy.chat.syntax.form_syntax import FormSyntax
from ggufpy.chat.syntax.generic import Generic
from ggufpy.chat.syntax.learned import learned
from ggufpy.chat.syntax.shown import Renders, Shown


def syntax_of(template: Renders, architecture: str | None = None) -> Syntax:
    """The syntax that this template's models write, from a few small renderings of it.

    A family that knows the template by what it renders or names, else what is learned. One for templates that do not
    tell of tools at all, else content alone.
    architecture: `general.architecture`, for templates that show nothing.
    """
    shown = Shown(template)
    for module in modules():
        syntax: Syntax | None = module.syntax(shown, architecture or "")
        if syntax is not None:
            return syntax
    form, header = learned(shown)
    if not form.calls and shown.prompts and not shown.tells_of_tools:
        return Generic(form, header)
    return FormSyntax("learned" if form.calls or form.thoughts else "plain", form, header)


def modules() -> list[ModuleType]:
    """The families, each with `syntax(shown, architecture)`: its syntax, or None for another's template."""
    names = sorted(module.name for module in pkgutil.iter_modules(families.__path__))
    return [importlib.import_module(f"{families.__name__}.{name}") for name in names]
