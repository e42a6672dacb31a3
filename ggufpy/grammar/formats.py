"""Formats of strings (JSON Schema, `format`) as regular expressions in Rust's syntax, each for a whole string.

A text that one of these describes is what the format's own standard allows. Where the standard allows more than readers
take (leap seconds, a year 0000), the narrower form is written. `NUMBERS` are OpenAPI's, as bounds.
"""

from __future__ import annotations

_YEAR = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP = (  # years of 366 days: divisible by 4, and by 400 where by 100
    "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
)
_DAYS = (
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = f"(?:{_YEAR}-{_DAYS}|{_LEAP}-02-29)"
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?"
_ZONE = "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_HEX = "[0-9a-fA-F]"
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HOST = f"{_LABEL}(?:\\.{_LABEL}){{0,30}}"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = f"{_BYTE}(?:\\.{_BYTE}){{3}}"
_LOCAL = "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+"


def _ipv6() -> str:
    """RFC 3986, IPv6address: eight groups, a run of which :: stands for; the last two may be an IPv4 address."""
    group = f"{_HEX}{{1,4}}"
    tail = f"(?:{group}:{group}|{_IPV4})"
    forms = [f"(?:{group}:){{6}}{tail}"]
    for before in range(6):  # groups before the ::
        head = f"(?:(?:{group}:){{0,{before - 1}}}{group})?" if before else ""
        rest = 5 - before
        forms.append(f"{head}::(?:{group}:){{{rest}}}{tail}" if rest else f"{head}::{tail}")
    forms += [f"(?:(?:{group}:){{0,5}}{group})?::{group}", f"(?:(?:{group}:){{0,6}}{group})?::"]
    return f"(?:{'|'.join(forms)})"


def _duration() -> str:
    """RFC 3339, appendix A."""
    second, minute, hour = "[0-9]{1,9}S", "[0-9]{1,9}M(?:[0-9]{1,9}S)?", "[0-9]{1,9}H(?:[0-9]{1,9}M(?:[0-9]{1,9}S)?)?"
    time = f"T(?:{hour}|{minute}|{second})"
    day, month = "[0-9]{1,9}D", "[0-9]{1,9}M(?:[0-9]{1,9}D)?"
    year = "[0-9]{1,9}Y(?:[0-9]{1,9}M(?:[0-9]{1,9}D)?)?"
    return f"P(?:(?:{year}|{month}|{day})(?:{time})?|{time}|[0-9]{{1,9}}W)"


_UNRESERVED = "a-zA-Z0-9._~!$&'()*+,;=\\-"
_CHARACTER = f"(?:[{_UNRESERVED}:@]|%{_HEX}{{2}})"
_AUTHORITY = (
    f"(?:(?:[{_UNRESERVED}:]|%{_HEX}{{2}})*@)?(?:(?:[{_UNRESERVED}]|%{_HEX}{{2}})+|\\[{_ipv6()}\\])(?::[0-9]{{1,5}})?"
)
_TAIL = f"(?:\\?(?:{_CHARACTER}|[/?])*)?(?:\\x{{23}}(?:{_CHARACTER}|[/?])*)?"
_URI = (  # RFC 3986, with an authority behind //
    f"[a-zA-Z][a-zA-Z0-9+.-]{{0,30}}:(?://{_AUTHORITY}(?:/{_CHARACTER}*)*|/?{_CHARACTER}+(?:/{_CHARACTER}*)*){_TAIL}"
)

STRINGS: dict[str, str] = {
    "date": _DATE,
    "time": _CLOCK + _ZONE,
    "date-time": f"{_DATE}T{_CLOCK}{_ZONE}",
    "duration": _duration(),
    "email": f"{_LOCAL}(?:\\.{_LOCAL})*@{_HOST}",
    "hostname": _HOST,
    "ipv4": _IPV4,
    "ipv6": _ipv6(),
    "uuid": f"{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}",
    "uri": _URI,
    "url": f"https?://{_AUTHORITY}(?:/{_CHARACTER}*)*{_TAIL}",
    "json-pointer": r"(?:/(?:[^/~]|~[01])*)*",
    "byte": "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?",  # OpenAPI: base64
}

HINTS = frozenset({"password", "float", "double", "decimal"})  # how a value is shown or kept: any is one

NUMBERS: dict[str, tuple[int, int]] = {
    "int8": (-(2**7), 2**7 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "uint8": (0, 2**8 - 1),
    "uint16": (0, 2**16 - 1),
    "uint32": (0, 2**32 - 1),
    "int64": (-(2**53) + 1, 2**53 - 1),  # what every reader of JSON keeps exactly (RFC 8259, 6)
    "uint64": (0, 2**53 - 1),
}
