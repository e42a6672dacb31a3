"""Text that a terminal shows and does not obey: what a model or a file says is not trusted.

In: any text. Out: the same with control characters made visible; only newlines and tabs keep their meaning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

# Controls of the text's direction can make it read other than it is: Unicode's technical report 36, section 2.6.
_BIDI = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_TABLE: Mapping[int, int] = MappingProxyType(
    {
        **{code: 0x2400 + code for code in range(0x20) if code not in (0x09, 0x0A)},  # Unicode's control pictures
        0x7F: 0x2421,
        **dict.fromkeys((*range(0x80, 0xA0), *_BIDI), 0xFFFD),
        0x2028: 0x0A,  # line and paragraph separators
        0x2029: 0x0A,
    }
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """`text` without control characters but for newline and tab, and without what cannot be written as UTF-8."""
    return encodable(text.replace("\r\n", "\n").translate(_TABLE))


def encodable(text: str) -> str:
    """The same with U+FFFD for halves of surrogate pairs, which Python has where bytes were no UTF-8."""
    return _SURROGATE.sub("\ufffd", text)


def one_line(text: str) -> str:
    """The same on one line."""
    return " ".join(clean(text).split())
