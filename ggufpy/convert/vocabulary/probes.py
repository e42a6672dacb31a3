"""Texts on which tokenizers are compared: a seeded mixture of scripts, numbers, white space, code and punctuation.

Out: the same texts for the same seed on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

_WORD_LIST = (
    "the of and Hello WORLD don't I'll we're You've he'D it'S THEY'RE iPhone camelCase "
    "HTTPServer snake_case naïve café Straße ÉCOLE Ångström œuvre Привет мир нещо на "
    "Български Ελληνικά ΑΒΓ שלום עולם مرحبا العالم नमस्ते दुनिया हिन्दी বাংলা தமிழ் "
    "ไทยสวัสดี ខ្មែរ កាន់តែ မြန်မာ 日本語 ひらがな カタカナ 中文字符 我想在apple工作 한국어 안녕하세요 ﾊﾝｶｸ ＦＵＬＬ "
    "ქართული հայերեն ǅ ﬁ Ⅷ ½ ² ① x² E=mc² e\u0301 n\u0303o a\u030a क\u093c İstanbul ı ſ ß ẞ 𝒜𝓑 𐐀𐐨 ᏣᎳᎩ "
)
_NUMBERS = (
    "1",
    "12",
    "123",
    "1234",
    "12345",
    "1234567",
    "3.14159",
    "1,000,000",
    "0x1F",
    "1e-9",
    "2024-05-17",
    "٣٤٥",
    "१२३४",
    "１２３４５",
    "000",
    "9" * 17,
)
_MARK_LIST = (
    "! ? . , ; : ' \" ` ~ @ # $ % ^ & * ( ) - _ = + [ ] { } \\ | / < > ... --- === ''' \"\"\" "
    "/** */ // -> => :: && || != 。 ， 、 ！ ？ … “ ” ‘ ’ « » — – € £ © ™ → ∑ √ ≈ ° § ¿ ¡ ・ 「 」 "
    "। "
)
_WORDS = tuple(_WORD_LIST.split())
_MARKS = tuple(_MARK_LIST.split())
_SPACES = (
    " ",
    "  ",
    "   ",
    "    ",
    " " * 8,
    " " * 17,
    "\n",
    "\n\n",
    "\n\n\n",
    "\r\n",
    "\r",
    "\t",
    "\t\t",
    " \n",
    "\n ",
    " \t ",
    "\u00a0",
    "\u3000",
    "\u2003",
    "\u200b",
    "\u0085",
    "\x0b",
    "\x0c",
    " \n \n  ",
)
_SIGNS = (
    "🚀",
    "😶\u200d🌫️",
    "🦙🦙",
    "👩🏽\u200d🚀",
    "🇩🇪",
    "❤️",
    "✅",
    "\u200d",
    "\ufe0f",
    "\u0301",
    "\u0000",
    "\u001f",
    "\u007f",
    "\ufffd",
    "\ue000",
    "\U0001f9ff",
    "\u202e",
    "\U000e0041",
    "\u0378",
)
_CODE = (
    "def f(x):\n    return x**2  # square\n",
    "for (int i = 0; i < 10; ++i) {\n\tsum += a[i];\n}\n",
    "SELECT * FROM t WHERE a='b';",
    '<div class="x">\n  <p>Hi &amp; bye</p>\n</div>',
    '{"key": [1, 2.5, null], "k2": "v\\n"}',
    "https://example.org/a?b=1&c=%20#d",
    "if __name__ == '__main__':\n        main()\n",
    "\\frac{a}{b} \\sum_{i=0}^{n}",
    "x = y if z else w;;",
    "a.b.c->d::e",
)
_BLOCKS = (
    (0x20, 0x7E),
    (0xA0, 0x24F),
    (0x300, 0x36F),
    (0x370, 0x52F),
    (0x5D0, 0x6FF),
    (0x900, 0xDFF),
    (0xE00, 0x109F),
    (0x1E00, 0x2BFF),
    (0x3000, 0x30FF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xF900, 0xFAFF),
    (0xFE30, 0xFFEF),
    (0x1F300, 0x1FAFF),
    (0x20000, 0x2A6DF),
)


def texts(count: int, seed: int = 1, special: Sequence[str] = ()) -> list[str]:
    """`count` texts of up to some hundred characters; `special` are texts of added tokens to be strewn in."""
    source = random.Random(seed)
    return [_text(source, special) for _ in range(count)]


def _text(source: random.Random, special: Sequence[str]) -> str:
    kinds = (_natural, _mixed, _mixed, _code, _characters, _runs)
    parts = [source.choice(kinds)(source)]
    if special:
        for _ in range(source.randint(1, 4)):
            parts += [
                source.choice(("", " ", "\n", "x")),
                source.choice(special),
                source.choice(("", " ", "  ", "\n", "a")),
            ]
            parts.append(source.choice(kinds)(source)[:40])
        if source.random() < 0.3:
            parts = parts[1:]
    return "".join(parts)


def _natural(source: random.Random) -> str:
    words = [source.choice(_WORDS + _NUMBERS) for _ in range(source.randint(1, 25))]
    return "".join([word + source.choice((" ", " ", " ", ", ", ". ", "\n", "-", "'s ")) for word in words]).strip(
        source.choice(("", " "))
    )


def _mixed(source: random.Random) -> str:
    groups = (_WORDS, _WORDS, _NUMBERS, _MARKS, _SPACES, _SPACES, _SIGNS)
    return "".join([source.choice(source.choice(groups)) for _ in range(source.randint(1, 20))])


def _code(source: random.Random) -> str:
    return "".join([source.choice(_CODE) + source.choice(_SPACES) for _ in range(source.randint(1, 3))])


def _characters(source: random.Random) -> str:
    low, high = source.choice(_BLOCKS)
    made = [chr(source.randint(low, high)) for _ in range(source.randint(1, 24))]
    return "".join([c if source.random() < 0.85 else source.choice((" ", "1", "a", "B", ".", c * 3)) for c in made])


def _runs(source: random.Random) -> str:
    pool = (*_SPACES[:4], "\n", "1", "a", "A", "=", "-", "\u4e2d", "!", "é", "\t", "'", "ab", "\U0001f680")
    return "".join([source.choice(pool) * source.randint(1, 40) for _ in range(source.randint(1, 4))])
