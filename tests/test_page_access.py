"""The page for those who use a keyboard, a screen reader, a phone or the dark."""

from __future__ import annotations

import re
from typing import Any

import pytest
from page_browser import DESKTOP, PHONE, Page
from page_fake import PAGE, words

pytestmark = pytest.mark.browser

TAB, SHIFT, ESCAPE, DOWN, UP, CONTROL = "\ue004", "\ue008", "\ue00c", "\ue015", "\ue013", "\ue009"

ANSWER = (
    """Some *text* with `code` and a [link](https://a.b/).

```python
def f(x: int) -> str:  # a comment
    return "text" + str(42)
```

| a | b |
|---|--:|
| """
    + "wide " * 60
    + """ | 2 |

> quoted

"""
    + "unbroken" * 40
)

# The contrast of each text with what is behind it (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio).
CONTRAST = """
const parse = (colour) => {
  const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
  return {r, g, b, a};
};
const over = (top, under) => {
  const mix = (name) => top[name] * top.a + under[name] * (1 - top.a);
  return {r: mix("r"), g: mix("g"), b: mix("b"), a: 1};
};
const ground = (element) => {
  const layers = [];
  for (let at = element; at !== null; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
  return layers.reverse().reduce((under, top) => over(top, under), {r: 255, g: 255, b: 255, a: 1});
};
const light = ({r, g, b}) => {
  const part = (value) => value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4;
  return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
};
const ratio = (one, other) => {
  const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
const poor = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== "");
  const said = own || element.matches("input[placeholder], textarea[placeholder]");
  if (!said || !element.checkVisibility({visibilityProperty: true})) continue;
  if (element.closest(".off-screen, :disabled, .skip")) continue;
  const style = getComputedStyle(element, element.matches("[placeholder]") ? "::placeholder" : null);
  const behind = ground(element);
  const found = ratio(over(parse(style.color), behind), behind);
  if (found < 4.5) poor.push([element.className || element.localName, element.textContent.slice(0, 30), found]);
}
return poor;
"""


def talk(page: Page) -> None:
    """A conversation with all that messages have, and a line that failed."""
    page.plan.answers["show"] = [{"reasoning_content": "thinking it over"}, *words(ANSWER)]
    page.say("show")
    page.press("Answer again")
    page.finished()
    page.js("document.querySelector('.thoughts').open = true")
    page.plan.refuse = "this was refused"
    page.say("fail")
    page.plan.refuse = ""


ROLES = {
    "alertdialog",
    "article",
    "button",
    "checkbox",
    "combobox",
    "complementary",
    "dialog",
    "form",
    "heading",
    "image",
    "link",
    "menu",
    "menuitem",
    "navigation",
    "progressbar",
    "radio",
    "region",
    "searchbox",
    "spinbutton",
    "textbox",
}


def nameless(page: Page) -> list[str]:
    """Controls and regions of the accessibility tree that have no name; what a dialog shuts off is not in the tree."""
    tree = page.chrome.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    nodes = [each for each in tree if not each["ignored"] and each["role"]["value"] in ROLES]
    assert len(nodes) >= 3
    return [str(each) for each in nodes if not each["name"]["value"]]


def test_everything_has_a_name(page: Page) -> None:
    assert nameless(page) == []
    talk(page)
    assert nameless(page) == []
    page.press("More on show")
    assert nameless(page) == []
    page.keys(ESCAPE)
    for opener in ("Settings", "Keyboard shortcuts"):
        page.press(opener)
        assert nameless(page) == []
        page.keys(ESCAPE)
    page.press("JSON")
    assert nameless(page) == []
    roles = page.js("return [...document.querySelectorAll('main, aside, nav, header, form[aria-label]')].length")
    assert roles == 5
    assert page.js("return document.documentElement.lang") == "en"
    assert len(page.all("h1")) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(page: Page, scheme: str) -> None:
    page.scheme(scheme)
    assert page.js(CONTRAST) == []
    talk(page)
    assert page.js(CONTRAST) == []
    page.press("JSON")
    page.keys("{")
    assert page.js(CONTRAST) == []
    page.press("More on show")
    assert page.js(CONTRAST) == []
    page.keys(ESCAPE)
    page.press("Settings")
    page.find("#field-seed").send_keys("x")
    assert page.js(CONTRAST) == []
    page.press("Delete all", "#settings-dialog")
    assert page.js(CONTRAST) == []


def test_the_check_of_contrast_finds_what_is_too_faint(page: Page) -> None:
    page.js("document.getElementById('empty-title').style.color = '#999'")
    assert [found[1] for found in page.js(CONTRAST)] == ["What would you like to ask?"]


def test_light_and_dark_have_the_same_colours_whoever_chose_them(page: Page) -> None:
    """The dark colours are written twice in base.css."""

    def colours() -> dict[str, str]:
        script = """
        const style = getComputedStyle(document.documentElement);
        return Object.fromEntries(arguments[0].map((name) => [name, style.getPropertyValue(name)]));
        """
        return page.js(script, names)

    names = sorted(set(re.findall(r"^  (--[a-z-]+):", (PAGE / "base.css").read_text(encoding="utf-8"), flags=re.M)))
    assert len(names) > 20
    light = colours()
    page.scheme("dark")
    dark = colours()
    assert light != dark
    page.scheme("light")
    for expected, label in ((light, "Theme: light"), (dark, "Theme: dark"), (light, "Theme: as the system")):
        page.find("#switch-theme").click()
        assert page.find("#switch-theme").accessible_name == label
        assert colours() == expected
    page.find("#switch-theme").click()
    page.find("#switch-theme").click()
    page.reload()
    assert colours() == dark


def test_the_end_of_an_answer_is_announced(page: Page) -> None:
    page.say("hello")
    assert page.find("#announcer").get_attribute("aria-live") == "polite"
    assert page.texts("#announcer") == ["Answer: You said: hello"]
    assert page.js("return document.querySelector('#thread').closest('[aria-live], [role=log], [role=status]')") is None
    page.plan.refuse = "too long"
    page.say("more")
    assert page.texts("#announcer") == ["No answer: too long"]


def test_the_whole_page_by_keyboard(page: Page) -> None:
    page.say("first")
    page.js("document.querySelector('.skip').focus()")
    seen = [page.focused()]
    for _ in range(60):
        page.keys(TAB)
        name = page.focused()
        if page.js("return document.activeElement === document.body"):
            break
        seen.append(name)
        outline = page.js(
            "const style = getComputedStyle(document.activeElement), box = document.activeElement.closest('.box');"
            "return style.outlineStyle !== 'none' || (box !== null && getComputedStyle(box).boxShadow !== 'none')"
        )
        assert outline, f"{name} does not show that it has the focus"
        assert page.js("return document.activeElement.checkVisibility({opacityProperty: true})"), name
    wanted = [
        "Skip to the message box",
        "New conversation",
        "Search conversations",
        "first",
        "More on first",
        "Settings",
        "Theme: as the system",
        "Keyboard shortcuts",
        "Model",
        "Copy message",
        "Edit message",
        "Copy answer",
        "Answer again",
        "Message",
        "JSON",
    ]
    assert [name for name in seen if name in wanted] == wanted


def test_dialogs_and_menus_give_the_focus_back(page: Page) -> None:
    page.say("first")
    for opener, inside in (("Settings", "#settings-dialog"), ("Keyboard shortcuts", "#shortcuts-dialog")):
        page.button(opener).send_keys("\n")
        assert page.js("return document.activeElement.closest(arguments[0]) !== null", inside)
        for _ in range(30):
            page.keys(TAB)
            assert page.js(f"const at = document.activeElement; return at.matches('body, {inside}, {inside} *')")
        page.keys(ESCAPE)
        assert page.focused() == opener
    page.find("#message").send_keys("kept")
    page.chord(CONTROL, "/")
    assert page.find("#shortcuts-dialog").is_displayed()
    page.keys(ESCAPE)
    assert page.focused() == "Message"
    page.button("More on first").send_keys("\n")
    assert page.focused() == "Rename"
    page.keys(DOWN)
    assert page.focused() == "Export"
    page.keys(UP + UP)
    assert page.focused() == "Delete"
    page.keys(ESCAPE)
    assert page.focused() == "More on first"
    assert page.all(".menu") == []
    page.chord(CONTROL, SHIFT, "o")
    assert page.texts("#title") == ["New conversation"]
    assert page.focused() == "Message"
    page.chord(CONTROL, ",")
    assert page.find("#settings-dialog").is_displayed()


def overflow(page: Page) -> Any:
    """What is wider than the screen."""
    return page.js(
        """
        const width = document.documentElement.clientWidth;
        const wide = [...document.querySelectorAll("body *")].filter((each) => {
          const box = each.getBoundingClientRect();
          const within = each.parentElement.closest(".table, pre, .sidebar, .off-screen, .skip");
          return within === null && !each.matches(".sidebar, .off-screen, .skip") && box.width > 0
            && (box.right > width + 0.5 || box.left < -0.5);
        });
        return [document.scrollingElement.scrollWidth > width, wide.map((each) => each.className)];
        """
    )


def test_a_phone(page: Page) -> None:
    page.say("on a desktop")
    page.size(*PHONE, touch=True)
    page.reload()
    assert page.js("return innerWidth") == PHONE[0]
    page.plan.answers["show"] = words(ANSWER)
    page.write("show")
    page.find("#send").click()  # a screen's Enter begins a line
    page.finished()
    assert overflow(page) == [False, []]
    small = page.js(
        "return [...document.querySelectorAll('input, textarea, select')]"
        ".filter((each) => parseFloat(getComputedStyle(each).fontSize) < 16).map((each) => each.id)"
    )
    assert small == []
    assert not page.find("#sidebar").is_displayed()
    page.press("Open the sidebar")
    assert page.focused() == "Close the sidebar"
    assert page.find("#main").get_attribute("inert") is not None
    page.keys(ESCAPE)
    assert page.focused() == "Open the sidebar"
    page.press("Open the sidebar")
    page.press("New conversation", "#sidebar")
    assert not page.find("#sidebar").is_displayed()
    assert page.find("#empty").is_displayed()
    assert overflow(page) == [False, []]
    page.press("Open the sidebar")
    page.press("Settings")
    assert overflow(page) == [False, []]
    page.keys(ESCAPE)
    page.keys(ESCAPE)
    page.press("JSON")
    assert overflow(page) == [False, []]
    targets = page.js(
        "return [...document.querySelectorAll('#main button')].filter((each) => each.checkVisibility())"
        ".map((each) => [each.id, each.getBoundingClientRect().height]).filter(([, height]) => height < 32)"
    )
    assert targets == []


def test_on_a_phone_enter_begins_a_line(page: Page) -> None:
    page.size(*PHONE, touch=True)
    page.reload()
    page.write("one\ntwo")
    assert page.plan.bodies == []
    page.find("#send").click()
    page.finished()
    assert page.plan.bodies[0]["messages"][0]["content"] == "one\ntwo"


@pytest.mark.parametrize("size", [(320, 568), (768, 1024), DESKTOP, (2560, 1440)])
def test_other_sizes(page: Page, size: tuple[int, int]) -> None:
    page.plan.answers["show"] = words(ANSWER)
    page.say("show")
    page.size(*size)
    assert overflow(page) == [False, []]
    column = page.js("return document.querySelector('.prose').getBoundingClientRect().width")
    assert column <= 44 * 16
    assert page.js("return document.querySelector('.composer').getBoundingClientRect().bottom <= innerHeight")


def test_reading_further_up_is_not_disturbed(page: Page) -> None:
    page.plan.answers["long"] = words("\n\n".join(f"line {number}" for number in range(60)))
    page.say("long")
    page.plan.delay = 0.02
    page.plan.answers["more"] = words("\n\n".join(f"more {number}" for number in range(40)))
    page.write("more\n")
    page.wait_text(".message:last-child .prose", "more 3")
    page.js("document.getElementById('scroll').scrollTop = 0")
    page.wait_text(".message:last-child .prose", "more 30")
    assert page.js("return document.getElementById('scroll').scrollTop") == 0
    page.press("Go to the newest message")
    page.finished()
    ends = "const at = document.getElementById('scroll'); return at.scrollHeight - at.scrollTop - at.clientHeight < 40"
    page.wait(lambda: page.js(ends))
    assert page.focused() == "Message"
    page.keys("\ue00e")  # PageUp
    page.wait(lambda: page.find("#to-end").is_displayed())
    page.keys("\ue00f")
    page.wait(lambda: page.js(ends))
