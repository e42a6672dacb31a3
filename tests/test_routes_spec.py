"""spec/routes.md is what the routes and their tables say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pytest

from ggufpy.api.ollama.fields import FIELDS
from ggufpy.support.records import dataclass

ROOT = Path(__file__).parent.parent


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tool as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return import_module("make_routes_spec")


def test_the_page_is_generated() -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "make_routes_spec.py"), "-"],
        capture_output=True, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
    ).stdout.decode("utf-8")  # fmt: skip
    written = (ROOT / "spec" / "routes.md").read_text(encoding="utf-8")
    assert made.replace("\r\n", "\n") == written, "run tools/make_routes_spec.py"


def test_what_is_refused_or_not_there_has_its_reason(tool: Any) -> None:
    own = tool.ours()
    assert own["POST", "/api/chat"] == ("yes", "/api/chat")
    assert own["DELETE", "/api/delete"][0].startswith("refused: ")
    assert tool.reason("POST", "/v1/images/generations").startswith("no: ")
    assert tool.reason("POST", "/nothing") == "no"


def test_every_field_of_ollama_is_in_it(tool: Any) -> None:
    page = "\n".join(tool.fields())
    assert all(f"| `{name}` | {effect} |" in page for table in FIELDS.values() for name, (effect, _) in table.items())


@dataclass(frozen=True)
class Entry:
    """A field as a table of records has it."""

    effect: str
    about: str


@pytest.mark.parametrize(
    ("said", "rows"),
    [
        ({"FIELDS": {"/x": {"a": ("honoured", "as it is")}}}, [("a", "honoured", "as it is")]),
        ({"CHAT": MappingProxyType({"a": Entry("taken", "no use")})}, [("a", "taken", "no use")]),
        (
            {"REFUSED": {"c": "why"}, "HONOURED": ("a",), "TAKEN": {"b": len}},
            [("a", "honoured", ""), ("b", "taken", ""), ("c", "refused", "why")],
        ),
        (
            {"REFUSED": {"c": "why"}, "KNOWN": {"a", "b"}, "NO_EFFECT": {"b": "none"}},
            [("a", "honoured", ""), ("b", "taken", "none"), ("c", "refused", "why")],
        ),
        ({"REFUSED": {"c": "why"}, "LIMIT": 5, "EMPTY": {}}, []),
    ],
)
def test_tables_are_found_as_interfaces_say_them(tool: Any, said: Mapping[str, Any], rows: list[Any]) -> None:
    module = ModuleType("some")
    vars(module).update(said)
    assert [row for _, _, table in tool.tables_of(module) for row in table] == rows
