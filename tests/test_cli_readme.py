"""The README says what there is: two set-up commands, every command, architecture and type."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ggufpy import cli, models, quants

README = Path(__file__).resolve().parent.parent / "README.md"


@pytest.fixture(scope="module")
def text() -> str:
    return README.read_text("utf-8")


def test_the_readme_opens_with_two_commands(text: str) -> None:
    first, second = re.findall(r"^```sh\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)
    assert "\n" not in first + second
    assert first.startswith("pip install . && ggufpy run ")
    assert second == "pip install '.[test]' && pytest"
    assert text.index(second) < text.index("\n## ")


def test_the_readme_names_everything(text: str) -> None:
    for name in cli.command_names():
        assert f"| `{name}` |" in text
    for name in models.names():
        assert f"`{name}`" in text
    for name in quants.names():
        assert re.search(rf"\b{name}\b", text), name
