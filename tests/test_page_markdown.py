"""Markdown of answers on the page: what it becomes, that none of it becomes markup, that it takes little time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from page_browser import Page, opened
from page_fake import words

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.browser

# Elements as nested lists: [tag, children...]; texts are strings. The wrappers of code and tables are left out.
SHAPE = """
const shape = (node) => {
  if (node.nodeType === 3) return node.data;
  const part = (css) => node.querySelector(css).textContent;
  if (node.matches(".code")) return ["pre", part(".code-language"), part("code")];
  if (node.matches(".table")) return shape(node.firstChild);
  const href = node.getAttribute("href");
  const more = href ?? node.getAttribute("start");
  return [more === null ? node.localName : `${node.localName}=${more}`, ...[...node.childNodes].map(shape)];
};
const whole = (text) => {
  const view = new it.MarkdownView();
  view.update(text, true);
  view.element.normalize();
  return view.element;
};
"""

CASES: list[tuple[str, list[Any]]] = [
    ("plain", [["p", "plain"]]),
    ("a\nb  \nc", [["p", "a\nb  ", ["br"], "c"]]),
    ("# One\n\n### Three ###\n####### no", [["h3", "One"], ["h5", "Three"], ["p", "####### no"]]),
    ("Title\n===\nOther\n---", [["h3", "Title"], ["h4", "Other"]]),
    (
        "**bold** and *it* and ***both***",
        [
            ["p", ["strong", "bold"], " and ", ["em", "it"], " and ", ["em", ["strong", "both"]]],
        ],
    ),
    ("snake_case_name and 2*3*4 and * alone *", [["p", "snake_case_name and 2", ["em", "3"], "4 and * alone *"]]),
    ("~~gone~~ ~kept~", [["p", ["del", "gone"], " ~kept~"]]),
    ("**a*", [["p", "*", ["em", "a"]]]),
    ("`code *x*` and ``a`b``", [["p", ["code", "code *x*"], " and ", ["code", "a`b"]]]),
    ("`open", [["p", "`open"]]),
    (r"\*not\* \a", [["p", r"*not* \a"]]),
    ('[text](https://a.b/c "title")', [["p", ["a=https://a.b/c", "text"]]]),
    ("[**b** `c`](<https://a.b/c d>)", [["p", ["a=https://a.b/c%20d", ["strong", "b"], " ", ["code", "c"]]]]),
    ("![a cat](https://a.b/cat.png)", [["p", ["a=https://a.b/cat.png", "a cat"]]]),
    (
        "[in [x](https://a.b/) side](https://c.d/)",
        [
            ["p", "[in ", ["a=https://a.b/", "x"], " side](", ["a=https://c.d/", "https://c.d/"], ")"],
        ],
    ),
    (
        "see https://a.b/c_(d)_e. And <https://e.f/>",
        [
            [
                "p",
                "see ",
                ["a=https://a.b/c_(d)_e", "https://a.b/c_(d)_e"],
                ". And ",
                ["a=https://e.f/", "https://e.f/"],
            ],
        ],
    ),
    ("<mailto:a@b.c>", [["p", ["a=mailto:a@b.c", "mailto:a@b.c"]]]),
    ("```py\nx = 1\n\n# y\n```\nafter", [["pre", "py", "x = 1\n\n# y"], ["p", "after"]]),
    ("````\n```\n````", [["pre", "text", "```"]]),
    ("~~~\nopen", [["pre", "text", "open"]]),
    (
        "- a\n- b\n  - c\n\n    more\n- d",
        [
            ["ul", ["li", "a"], ["li", "b", ["ul", ["li", ["p", "c"], ["p", "more"]]]], ["li", "d"]],
        ],
    ),
    ("1. a\n2. b", [["ol", ["li", "a"], ["li", "b"]]]),
    ("7) a", [["ol=7", ["li", "a"]]]),
    ("1. a\n  - b\n  - c\n2. d", [["ol", ["li", "a", ["ul", ["li", "b"], ["li", "c"]]], ["li", "d"]]]),
    ("- a\n\n- b", [["ul", ["li", ["p", "a"]], ["li", ["p", "b"]]]]),
    ("1. x\n   ```\n   code\n   ```\n2. y", [["ol", ["li", "x", ["pre", "text", "code"]], ["li", "y"]]]),
    ("- [x] done\n- [ ] open", [["ul", ["li", ["input"], "done"], ["li", ["input"], "open"]]]),
    ("in 2024. It was\n2. not a list", [["p", "in 2024. It was\n2. not a list"]]),
    ("> a\n> > b\n\nc", [["blockquote", ["p", "a"], ["blockquote", ["p", "b"]]], ["p", "c"]]),
    ("* * *\n---", [["hr"], ["hr"]]),
    (
        "Here:\n| a | b |\n|:--|--:|\n| 1 | `x|y` |\n| 2 |\n\nend",
        [
            ["p", "Here:"],
            [
                "table",
                ["thead", ["tr", ["th", "a"], ["th", "b"]]],
                ["tbody", ["tr", ["td", "1"], ["td", ["code", "x|y"]]], ["tr", ["td", "2"], ["td"]]],
            ],
            ["p", "end"],
        ],
    ),
    ("a | b\nno table", [["p", "a | b\nno table"]]),
    ("one<br>two", [["p", "one", ["br"], "two"]]),
]

HOSTILE = [
    "<script>window.hurt = 1</script>",
    "<img src=x onerror='window.hurt = 1'>",
    "<svg/onload=window.hurt=1>",
    "<iframe srcdoc='<script>parent.hurt = 1</script>'></iframe>",
    '<a href="javascript:window.hurt=1">x</a>',
    "<style>body { display: none }</style>",
    "[x](javascript:window.hurt=1)",
    "[x](JaVaScRiPt&colon;window.hurt=1)",
    "[x](java\tscript:window.hurt=1)",
    "[x](<java\u0000script:window.hurt=1>)",
    "[x](data:text/html,<script>window.hurt=1</script>)",
    "[x](vbscript:x) [y](file:///etc/passwd) [z](/slots/0?action=erase) [w](//a.b/c)",
    '![x](javascript:window.hurt=1) ![y](https://a.b/pixel.png" onerror="window.hurt=1)',
    "<javascript:window.hurt=1>",
    '```"><script>window.hurt=1</script>\nx\n```',
    "```<img/src=x/onerror=window.hurt=1>\nx\n```",
    "| <script>window.hurt=1</script> |\n|---|\n| <img src=x onerror=window.hurt=1> |",
    "# <b onclick=window.hurt=1>x</b>",
    "- [x] <input onfocus=window.hurt=1 autofocus>",
    "`</code><script>window.hurt=1</script>`",
    "[https://good.example](https://evil.example \"' onmouseover='window.hurt=1\")",
    "{{constructor.constructor('window.hurt=1')()}}",
]

# What makes careless parsers slow, each about as long as it takes to show.
SLOW = [
    "*a",
    "**a_",
    "[",
    "![",
    "[a](",
    "[a](b",
    "[[a](http://x)",
    "`",
    "``a`",
    "<",
    "<http://",
    "http://a",
    "_*_",
    "~~a",
    "> ",
    "- ",
    "  - a\n",
    "1. ",
    "#",
    "|",
    "|a|b\n|-|-\n",
    "\\",
    "!",
    "(",
    "&",
    "***",
    "a**b**",
    "http://)))",
    "\n\n\n>",
    "```\n",
    "=\n",
    " ",
    "\t",
    "* * ",
]


@pytest.fixture(scope="module")
def page(chrome: Chrome) -> Iterator[Page]:
    with opened(chrome) as it:
        yield it


def test_what_markdown_becomes(page: Page) -> None:
    script = f"{SHAPE} return values[0].map((text) => shape(whole(text)).slice(1))"
    got = page.module("render.js", script, [case[0] for case in CASES])
    for (text, wanted), shape in zip(CASES, got, strict=True):
        assert shape == wanted, f"{text!r} became {shape}"


def test_nothing_in_an_answer_becomes_markup(page: Page) -> None:
    for position, text in enumerate(HOSTILE):
        page.plan.answers[f"hostile {position}"] = words(text)
    page.plan.answers["all"] = [
        {"reasoning_content": "\n\n".join(HOSTILE)},
        *words("\n\n".join(HOSTILE)),
        {"tool_calls": [{"index": 0, "function": {"name": HOSTILE[0], "arguments": HOSTILE[1]}}]},
    ]
    page.press("New conversation")
    page.say("all")
    page.press("New conversation")
    page.say("<img src=x onerror=window.hurt=1>")
    page.find("#message").send_keys("\ue013")
    page.keys("<script>window.hurt=1</script>\n")
    page.finished()
    page.press("Answer again")
    page.finished()
    assert page.js("return window.hurt === undefined")
    got = page.module(
        "render.js",
        SHAPE
        + """
        return values[0].map((text) => {
          const made = whole(text);
          document.body.append(made);
          const elements = [...made.querySelectorAll("*")];
          const attributes = elements.flatMap((each) => each.getAttributeNames());
          const result = {
            names: elements.map((each) => each.localName),
            attributes: attributes.filter((name) => /^on|^src|^style/.test(name)),
            links: elements.filter((each) => each.localName === "a").map((each) => [each.href, each.rel]),
            text: made.textContent,
          };
          made.remove();
          return result;
        });
        """,
        HOSTILE,
    )
    safe = {
        "p",
        "a",
        "div",
        "pre",
        "code",
        "span",
        "button",
        "svg",
        "path",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "h3",
        "ul",
        "li",
        "input",
        "strong",
        "em",
        "del",
        "br",
    }
    for text, result in zip(HOSTILE, got, strict=True):
        assert set(result["names"]) <= safe, text
        assert result["attributes"] == [], text
        assert all(href.startswith(("https://", "http://", "mailto:")) for href, _ in result["links"]), text
        assert all("noopener" in rel for _, rel in result["links"]), text
    assert "<script>window.hurt = 1</script>" in got[0]["text"]
    assert "[x](javascript:window.hurt=1)" in got[6]["text"]
    assert page.js("return window.hurt === undefined")


def test_text_that_comes_in_parts_becomes_the_same(page: Page) -> None:
    random.seed(5)
    signs = [
        "\n",
        "\n\n",
        "- ",
        "1. ",
        "  ",
        "# ",
        "> ",
        "```",
        "~~~",
        "`",
        "*",
        "**",
        "_",
        "|",
        "|-|-|",
        "a",
        "b c",
        "[x](http://y)",
        "---",
        "===",
        "<br>",
        "\\",
        "!",
        "[",
        "]",
        "(",
        "\r\n",
        "\t",
        "é",
        "😀",
        "http://z",
        ":",
        "[ ] ",
    ]
    texts = ["".join(random.choice(signs) for _ in range(random.randrange(1, 60))) for _ in range(1500)]
    texts += [case[0] for case in CASES] + ["\n\n".join(case[0] for case in CASES)]
    different = page.module(
        "render.js",
        SHAPE
        + """
        let seed = 1;
        const chance = (most) => (seed = (seed * 48271) % 2147483647) % most;
        return values[0].filter((text) => {
          const view = new it.MarkdownView();
          for (let end = 0; end < text.length; end += 1 + chance(4)) view.update(text.slice(0, end), false);
          view.update(text, true);
          view.element.normalize();
          return JSON.stringify(shape(view.element)) !== JSON.stringify(shape(whole(text)));
        });
        """,
        texts,
    )
    assert different == []


def test_no_text_takes_long(page: Page) -> None:
    slow = page.module(
        "markdown.js",
        """
        const inline = await import(new URL("page/inline.js", document.baseURI));
        const colour = await import(new URL("page/colour.js", document.baseURI));
        const slow = [];
        for (const part of values[0]) {
          const text = part.repeat(60_000 / part.length);
          const start = performance.now();
          it.parse(text);
          inline.inline(text);
          colour.coloured(text, "python");
          colour.coloured(text, "js");
          const took = performance.now() - start;
          if (took > 1500) slow.push([part, took]);
        }
        return slow;
        """,
        [*SLOW, "a" * 60_000, "(" * 30_000 + ")" * 30_000, "*" * 30_000 + "a" + "*" * 30_000, '"', "'", "/*", "'''"],
    )
    assert slow == []


def test_deep_nesting_is_bounded(page: Page) -> None:
    depth = page.module(
        "render.js",
        SHAPE
        + """
        const depth = (node) => 1 + Math.max(0, ...[...node.children].map(depth));
        return values[0].map((text) => depth(whole(text)));
        """,
        ["> " * 2000 + "x", "".join("  " * level + "- x\n" for level in range(300)), "*a **b " * 2000 + "** c*" * 2000],
    )
    assert max(depth) < 80


def test_what_is_drawn_of_a_long_answer_is_not_made_again(page: Page) -> None:
    """A text twice as long makes twice as many elements while it comes, and not four times as many."""
    section = "## Part\n\nSome *words* and `code` in a line of text.\n\n```py\nx = 1\n```\n\n- one\n- two\n\n"
    code = "```py\n" + "value = compute(1, 2, 3)\n" * 40
    made = page.module(
        "render.js",
        """
        const create = document.createElement;
        let made = 0;
        document.createElement = function (...given) {
          made += 1;
          return create.apply(document, given);
        };
        const count = (text) => {
          made = 0;
          const view = new it.MarkdownView();
          for (let end = 0; end < text.length; end += 20) view.update(text.slice(0, end), false);
          const before = made;
          view.update(text, true);
          return before;
        };
        const counts = values.map((text) => [count(text.repeat(20)), count(text.repeat(40))]);
        delete document.createElement;
        return counts;
        """,
        section,
        code,
    )
    assert 1.9 < made[0][1] / made[0][0] < 2.1
    assert max(made[1]) < 20  # an open block of code is one element that grows
