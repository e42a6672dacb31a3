"""Names of files that clients send: plain ones, of a file in a folder of the server's, and of nothing else.

What no name may be goes by all systems at once, so that a folder may be carried from one to another: what llama.cpp
refuses (common/common.cpp, fs_validate_filename), the devices of Windows
(https://learn.microsoft.com/windows/win32/fileio/naming-a-file), and characters that are another one to some systems.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata

from ggufpy.errors import GGUFError
from ggufpy.support import checks

MOST_BYTES = 200  # of UTF-8: folders take 255, and what is written beside a file has a longer name
_FORBIDDEN = re.compile(r'[/\\:*?"<>|]')
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9])", re.IGNORECASE)
_SLASHES = "\u2215\u2216\u29f5\u29f8\u29f9"  # slashes that are no "/" in any form of Unicode


def plain_name(field: str, given: object) -> str:
    """A plain name of a file, as it was given. Raises GGUFError, in the name of `field`, for every other."""
    name = checks.text(field, given)
    wrong = _wrong(name) or _wrong(unicodedata.normalize("NFKC", name))
    if wrong:
        raise GGUFError(f"{field} is {checks.shown(name)}, which {wrong}: a plain name such as chat-1.bin is wanted")
    return name


def _wrong(name: str) -> str | None:
    """What is wrong with a name, if anything is."""
    if not name:
        return "is empty"
    if len(name.encode("utf-8", "surrogatepass")) > MOST_BYTES:
        return f"is longer than {MOST_BYTES} bytes"
    if any(unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp") for c in name):
        return "has characters that cannot be seen"
    if _FORBIDDEN.search(name) or any(c in _SLASHES for c in name):
        return "has a character of paths or patterns"
    if ".." in name or name.startswith((".", " ", "-", "~")) or name.endswith((".", " ")):
        return 'begins with ".", "-", "~" or a space, ends with "." or a space, or has ".."'
    if _DEVICES.fullmatch(name.split(".")[0].rstrip()):
        return "is the name of a device"
    return None


def existing(folder: str, name: str) -> str:
    """The path of the regular file of a plain name in a folder. Raises GGUFError where there is none."""
    path = os.path.join(folder, name)
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        raise GGUFError(f"there is no saved file {name!r}") from None
    if not stat.S_ISREG(mode):
        raise GGUFError(f"{name!r} is no regular file: links, folders and devices are not read")
    return path


def writable(folder: str, name: str) -> str:
    """The path to which the file of a plain name is written. Raises GGUFError where something else has that name."""
    path = os.path.join(folder, name)
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return path
    except OSError as error:
        raise GGUFError(f"cannot write {name!r}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise GGUFError(f"{name!r} is no regular file, and is not written over: choose another name")
    return path
