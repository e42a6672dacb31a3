"""Chats: messages to prompts by the template that comes with a model. jinja2 is imported when one is used."""

from __future__ import annotations

from ggufpy.chat.template import ChatTemplate, template_key

__all__ = ["ChatTemplate", "template_key"]
