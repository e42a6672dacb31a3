"""What the files of the page hold; no browser is needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from page_fake import PAGE, POLICY, TYPES

FILES = sorted(path for path in PAGE.iterdir() if path.suffix in TYPES)
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
PARSES_HTML = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|setHTMLUnsafe|document\.write|DOMParser|createContextualFragment"
    r"|\beval\(|new Function|setTimeout\(\s*[\"'`]"
)


def _text(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def test_every_file_is_of_a_known_kind() -> None:
    others = {path.name for path in PAGE.iterdir()} - {path.name for path in FILES} - {"__init__.py", "__pycache__"}
    assert others == set()
    assert all(re.fullmatch(r"[a-z]+\.[a-z]+", path.name) for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    lines = _text(path.name).splitlines()
    assert len(lines) <= 400


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_makes_markup_from_text(path: Path) -> None:
    assert PARSES_HTML.findall(_text(path.name)) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_modules_import_modules_that_are_there(path: Path) -> None:
    names = re.findall(r"""^(?:import|export)\b[^;"]*"([^"]+)";""", _text(path.name), flags=re.M)
    assert all(name.startswith("./") and (PAGE / name).is_file() for name in names), names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_names_another_origin(path: Path) -> None:
    """Addresses in comments say where a format comes from, and the SVG namespace is a name."""
    text = _text(path.name)
    code = re.sub(r"/\*.*?\*/|^\s*//.*$", "", text, flags=re.S | re.M).replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]+[^\s\"'`]*|@import", code) == []


def test_the_document_has_no_inline_script_or_style() -> None:
    html = _text("index.html")
    assert re.findall(r"<script(?![^>]*\bsrc=)[^>]*>|<style|\sstyle=|\son\w+=|javascript:", html) == []
    names = re.findall(r"""(?:src|href)="([^"#]+)\"""", html)
    assert names
    assert all(name.startswith("page/") and (PAGE / name.removeprefix("page/")).is_file() for name in names), names


def test_every_element_that_a_script_asks_for_is_in_the_document() -> None:
    ids = re.findall(r'\bid="([^"]+)"', _text("index.html"))
    assert len(ids) == len(set(ids))
    wanted = {name for path in SCRIPTS for name in re.findall(r"""byId\("([^"]+)"\)""", _text(path.name))}
    assert wanted <= set(ids)


def test_every_icon_that_is_named_is_drawn() -> None:
    drawn = set(re.findall(r'^  (\w+): "M', _text("dom.js"), flags=re.M))
    named = set(re.findall(r'data-icon="(\w+)"', _text("index.html")))
    for path in SCRIPTS:
        named |= set(re.findall(r'\bicon(?:Button)?\("(\w+)"', _text(path.name)))
    assert named <= drawn


def test_the_tests_server_has_the_policy_of_the_real_one() -> None:
    pytest.importorskip("starlette")
    from ggufpy.server.routes import page

    assert POLICY == page.POLICY
    assert set(page.files()) == {path.name for path in FILES}
