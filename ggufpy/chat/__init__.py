"""Chats: messages to prompts by the template that comes with a model.

A template is rendered by jinja2 in a process of its own; names are imported when they are first used, so that this
process starts with little more than jinja2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.support.lazy import lazy

if TYPE_CHECKING:
    from ggufpy.chat.renderer import Renderer
    from ggufpy.chat.template import ChatTemplate, template_key

__all__ = ["ChatTemplate", "Renderer", "template_key"]

__getattr__ = lazy(__name__, {"ChatTemplate": "template", "Renderer": "renderer", "template_key": "template"})
