"""What the page keeps in the browser, in files, and when it is closed at a bad moment."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from page_browser import DESKTOP, Page
from page_fake import words

pytestmark = pytest.mark.browser

FILE: dict[str, Any] = {
    "format": "ggufpy-conversations",
    "version": 1,
    "exported": "2026-01-01T00:00:00.000Z",
    "conversations": [
        {
            "id": "c1",
            "title": "Rivers",
            "named": False,
            "created": 1,
            "updated": 2,
            "system": "",
            "schema": "",
            "constrained": False,
            "head": "b",
            "nodes": [
                {
                    "id": "a",
                    "parent": None,
                    "role": "user",
                    "content": "<b>Name</b> a river",
                    "thoughts": "",
                    "calls": "",
                    "status": "done",
                    "finish": None,
                    "failure": None,
                    "model": None,
                    "json": False,
                    "stats": None,
                    "created": 1,
                },
                {
                    "id": "b",
                    "parent": "a",
                    "role": "assistant",
                    "content": "The **Po**.",
                    "thoughts": "",
                    "calls": "",
                    "status": "done",
                    "finish": "stop",
                    "failure": None,
                    "model": "m",
                    "json": False,
                    "stats": {"prompt": 5, "completion": 4, "cached": None, "perSecond": 9.5, "seconds": 1},
                    "created": 2,
                },
            ],
        }
    ],
}


def titles(page: Page) -> list[str]:
    """The conversations in the list."""
    return page.texts(".row-open")


def import_text(page: Page, text: str) -> str:
    """What the page says of a file with this text: an error, or the line at the bottom."""
    return page.js(
        """
        const file = new File([arguments[0]], "conversations.json", {type: "application/json"});
        const held = new DataTransfer();
        held.items.add(file);
        const input = document.getElementById("import-file");
        input.files = held.files;
        for (const old of document.querySelectorAll(".toast")) old.remove();
        document.getElementById("import-error").textContent = "";
        input.dispatchEvent(new Event("change"));
        return new Promise((resolve) => {
          const look = () => {
            const said = document.getElementById("import-error").textContent
              || document.querySelector(".toast")?.textContent || "";
            if (said === "") setTimeout(look, 10);
            else resolve(said);
          };
          look();
        });
        """,
        text,
    )


def test_conversations_outlive_the_page(page: Page) -> None:
    page.say("first")
    page.press("New conversation")
    page.say("second")
    page.find("#system-part summary").click()
    page.find("#system").send_keys("Be kind.")
    page.wait(lambda: [each["system"] for each in page.kept()] == ["Be kind.", ""])
    page.reload()
    assert titles(page) == ["second", "first"]
    assert page.answers() == ["You said: second"]
    assert page.find("#system").get_attribute("value") == "Be kind."
    page.press("first")
    assert page.answers() == ["You said: first"]
    assert page.texts("#title") == ["first"]
    page.chrome.back()
    page.wait(lambda: page.answers() == ["You said: second"])


def test_what_is_typed_is_kept_until_it_is_sent(page: Page) -> None:
    page.say("hello")
    page.write("half a thought")
    page.press("New conversation")
    assert page.find("#message").get_attribute("value") == ""
    page.write("another")
    page.press("hello")
    assert page.find("#message").get_attribute("value") == "half a thought"
    page.reload()
    assert page.find("#message").get_attribute("value") == "half a thought"
    page.press("New conversation")
    assert page.find("#message").get_attribute("value") == "another"


def test_a_page_closed_in_the_middle_of_an_answer_keeps_what_came(page: Page) -> None:
    page.plan.answers["count"] = words(" ".join(str(number) for number in range(1000)))
    page.plan.delay = 0.01
    page.write("count\n")
    page.wait_text(".message.assistant .prose", "0 1 2 3 4 5 6 7 8 9")
    shown = page.answers()[0]
    page.reload()
    kept = page.answers()[0]
    assert kept.startswith(shown.strip())
    assert "999" not in kept
    page.wait_text(".remark", "This answer was cut off")
    page.plan.delay = 0
    page.plan.answers["count"] = words("One, two.")
    page.press("Answer again")
    page.finished()
    assert page.answers() == ["One, two."]
    assert page.texts(".versions span") == ["2 / 2"]


def test_an_answer_goes_on_while_another_conversation_is_read(page: Page) -> None:
    page.say("other")
    page.press("New conversation")
    page.plan.answers["count"] = words(" ".join(str(number) for number in range(60)))
    page.plan.delay = 0.02
    page.write("count\n")
    page.wait_text(".message.assistant .prose", "0 1 2")
    page.press("other")
    assert page.find("#send").is_displayed()
    page.press("count")
    assert page.find("#stop").is_displayed()
    page.finished()
    page.wait(lambda: page.answers()[0].endswith("58 59"))


def test_a_conversation_gets_another_name(page: Page) -> None:
    page.say("hello")
    page.press("More on hello")
    page.keys("\n")
    assert page.focused() == "Title"
    page.keys("A <i>greeting</i>\n")
    page.wait(lambda: titles(page) == ["A <i>greeting</i>"])
    page.reload()
    assert titles(page) == ["A <i>greeting</i>"]
    page.say("more")
    assert page.texts("#title") == ["A <i>greeting</i>"]


def test_what_is_deleted_can_come_back(page: Page) -> None:
    page.say("first")
    page.press("New conversation")
    page.say("second")
    page.press("More on second")
    page.press("Delete", ".menu")
    page.wait(lambda: titles(page) == ["first"])
    assert page.focused() == "first"
    page.press("Undo")
    page.wait(lambda: titles(page) == ["second", "first"])
    assert page.answers() == ["You said: second"]
    page.press("More on second")
    page.press("Delete", ".menu")
    page.reload()
    assert titles(page) == ["first"]
    page.press("Settings")
    page.press("Delete all")
    page.press("Delete all", "#ask-dialog")
    page.wait(lambda: titles(page) == [])
    page.reload()
    assert page.kept() == []


def test_one_that_is_deleted_while_its_answer_comes_stays_deleted(page: Page) -> None:
    page.plan.delay = 0.05
    page.plan.answers["long"] = words("word " * 100)
    page.write("long\n")
    page.wait_text(".message.assistant .prose", "word")
    page.press("More on long")
    page.press("Delete", ".menu")
    page.wait(lambda: page.plan.gone == 1)
    time.sleep(1)
    assert page.kept() == []


def test_search(page: Page) -> None:
    for text in ("apples", "pears"):
        page.press("New conversation")
        page.say(text)
    page.chord("\ue009", "k")
    assert page.focused() == "Search conversations"
    page.keys("SAID: APP")
    assert titles(page) == ["apples"]
    page.keys("zzz")
    assert titles(page) == []
    assert page.texts(".nothing") == ["Nothing found."]
    page.keys("\ue00c")
    assert titles(page) == ["pears", "apples"]


def test_an_export_comes_back_whole(page: Page, tmp_path: Path) -> None:
    page.chrome.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.plan.answers["think"] = [{"reasoning_content": "hm"}, *words("Yes.")]
    page.say("think")
    page.press("Answer again")
    page.finished()
    page.press("New conversation")
    page.say('*ünïcode* "quotes" \\ <b>')
    before = page.kept()
    page.press("Settings")
    page.press("Export all")
    file = page.wait(lambda: next(tmp_path.glob("*.json"), None))
    page.wait(lambda: file.stat().st_size > 0)
    text = file.read_text(encoding="utf-8")
    assert import_text(page, text) == "Imported 0; 2 were here already."
    page.press("Settings")
    page.press("Delete all")
    page.press("Delete all", "#ask-dialog")
    page.wait(lambda: titles(page) == [])
    assert import_text(page, text) == "Imported 2."
    assert page.kept() == before
    page.reload()
    assert len(titles(page)) == 2


def test_an_import_changes_nothing_that_is_here(page: Page) -> None:
    assert import_text(page, json.dumps(FILE)) == "Imported 1."
    page.press("Rivers")
    assert page.texts(".said") == ["<b>Name</b> a river"]
    assert page.answers() == ["The Po."]
    other = copy.deepcopy(FILE)
    other["conversations"][0]["nodes"][1]["content"] = "The Arno."
    assert import_text(page, json.dumps(other)) == "Imported 1."
    kept = page.kept()
    assert len({each["id"] for each in kept}) == 2
    assert {each["nodes"][1]["content"] for each in kept} == {"The **Po**.", "The Arno."}


def _with(change: str, value: Any) -> str:
    """The file with one thing changed; the path is written with dots."""
    file: Any = copy.deepcopy(FILE)
    place = file
    *path, last = [int(part) if part.isdigit() else part for part in change.split(".")]
    for part in path:
        place = place[part]
    place[last] = value
    return json.dumps(file)


NODE = "conversations.0.nodes.1"
HOSTILE = [
    ("", "the file is not JSON"),
    ("[" * 100_000, "the file is not JSON"),
    ("null", "does not hold conversations"),
    ("[]", "does not hold conversations"),
    ('{"__proto__": {"format": "ggufpy-conversations"}}', "does not hold conversations"),
    (_with("version", 2), "the file has version 2, and this page reads version 1"),
    (_with("conversations", {}), "conversations must be a list"),
    (_with("conversations.0", None), "conversation 1 is no object"),
    (_with("conversations.0.title", ["x"]), 'conversation 1: title is ["x"], and must be a text'),
    (_with("conversations.0.id", "../../x"), 'conversation 1: id is "../../x"'),
    (_with("conversations.0.head", "zz"), "conversation 1: head is no message of it"),
    (_with("conversations.0.extra\n", 1), 'conversation 1: there is no field "extra\\n"'),
    (_with("conversations.0.updated", -1), "conversation 1: updated is -1"),
    (_with(f"{NODE}.role", "system"), 'conversation 1, message 2: role is "system", and must be user or assistant'),
    (_with(f"{NODE}.parent", "b"), "conversation 1, message 2: parent is no message before it"),
    (_with(f"{NODE}.id", "a"), "conversation 1, message 2: its id is another message's"),
    (_with(f"{NODE}.content", None), "conversation 1, message 2: content is null"),
    (_with(f"{NODE}.content", "x" * 4_000_001), "content is "),
    (_with(f"{NODE}.stats.prompt", "5"), 'message 2: stats: prompt is "5", and must be a number from 0'),
    (_with(f"{NODE}.failure", {"kind": "x", "message": ""}), 'failure: kind is "x"'),
    (_with(f"{NODE}.__proto__", {"a": 1}), 'there is no field "__proto__"'),
]


def test_hostile_files_are_refused_in_one_line(page: Page) -> None:
    for text, says in HOSTILE:
        said = import_text(page, text)
        assert said.startswith("Nothing was imported: "), said
        assert says in said
        assert "\n" not in said
        assert len(said) < 250
    assert page.kept() == []
    assert page.js("return ({}).a") is None


def test_what_storage_holds_may_be_anything(page: Page) -> None:
    page.say("hello")
    page.js(
        """
        const sampling = {"temperature": "hot", "top_k": 5, "stop": [1, "x"]};
        localStorage.setItem("ggufpy.prefs", JSON.stringify({sampling, more: 3}));
        localStorage.setItem("ggufpy.drafts", "[");
        localStorage.setItem("ggufpy.journal", '[null, {"id": 5}, {"id": "x", "node": null}]');
        localStorage.setItem("ggufpy.theme", "<b>");
        """
    )
    page.chrome.get(page.address + "#%E0%A4%A")
    page.reload()
    page.say("still here")
    body = page.plan.bodies[-1]
    assert "temperature" not in body
    assert body["top_k"] == 5
    assert body["stop"] == ["x"]


def test_two_tabs_lose_nothing_of_each_other(page: Page) -> None:
    page.say("from one")
    first = page.chrome.current_window_handle
    page.chrome.switch_to.new_window("tab")
    try:
        page.size(*DESKTOP)
        page.open()
        page.press("from one")
        page.chrome.switch_to.window(first)
        page.press("Edit message")
        page.keys(" and edited")
        page.chrome.switch_to.window(page.chrome.window_handles[-1])
        page.say("from two")
        page.chrome.switch_to.window(first)
        page.wait(lambda: page.texts(".said")[-1:] == ["from two"])
        assert page.find(".editor").get_attribute("value") == "from one and edited"
        page.press("Cancel", ".foot")
        assert page.texts(".said") == ["from one", "from two"]
        page.say("one again")
        sent = [each["content"] for each in page.plan.bodies[-1]["messages"]]
        assert sent[::2] == ["from one", "from two", "one again"]
        assert len(page.kept()) == 1
    finally:
        for handle in page.chrome.window_handles:
            if handle != first:
                page.chrome.switch_to.window(handle)
                page.chrome.close()
        page.chrome.switch_to.window(first)
