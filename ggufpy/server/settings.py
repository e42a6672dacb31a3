"""How a server is to be run: bounds, defaults, help and flags, which are those of the command line, too."""

from __future__ import annotations

import re

from ggufpy.errors import GGUFError
from ggufpy.support import checks
from ggufpy.support.options import Real, Text, Texts, Whole, option
from ggufpy.support.records import dataclass

MEGABYTE = 1 << 20
AUTO = -1  # bytes that the machine decides about
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_MOST = 1 << 60  # bytes: more than any machine has


class Bytes:
    """Sizes in bytes, or AUTO; on the command line 12G, 800M (times 1,024), "auto" or "none"."""

    def check(self, name: str, value: object) -> int:
        """See `Kind`."""
        size = checks.whole(name, value, AUTO)
        if size > _MOST:
            raise GGUFError(f"{name} is {size}, which is more than any machine has")
        return size

    def read(self, text: str) -> int:
        """See `Kind`."""
        word = text.strip().lower()
        if word in ("auto", "none"):
            return AUTO if word == "auto" else 0
        found = _SIZE.fullmatch(word) if len(word) < 40 else None
        if found is None:
            raise GGUFError(f"{text[:40]!r} is no size: give bytes, 12G, 800M, auto or none")
        return self.check("the size", int(float(found[1]) * 1024 ** " kmgt".index(found[2] or " ")))


class Flag:
    """True or False: a flag that is given or not."""

    def check(self, name: str, value: object) -> bool:
        """See `Kind`."""
        return checks.flag(name, value)

    def read(self, text: str) -> bool:
        """See `Kind`."""
        if text not in ("true", "false"):
            raise GGUFError(f"{text[:40]!r} is neither true nor false")
        return text == "true"


@dataclass(frozen=True)
class ServerOptions:
    """Options of a server. Times are in seconds; 0 is none unless something else is said."""

    host: str = option("127.0.0.1", Text(), "address to listen on", "--host", metavar="HOST")
    port: int = option(8080, Whole(0), "port to listen on; 0 takes a free one", "--port", metavar="PORT")
    cors: tuple[str, ...] = option(
        (), Texts(), "a web page's origin that may ask (https://chat.example.com), * for all; again for more",
        "--cors", metavar="ORIGIN", default_text="pages of this machine", repeated=True,
    )  # fmt: skip
    allowed_hosts: tuple[str, ...] = option(
        (), Texts(), "a name under which the server may be called; again for more", "--allowed-host", metavar="NAME",
        default_text="those of this machine, or all where it listens for others", repeated=True,
    )  # fmt: skip
    queue: int = option(64, Whole(0), "requests that may wait for their turn; others get 429", "--queue", metavar="N")
    timeout: float = option(1800.0, Real(), "seconds that a request may take", "--timeout", metavar="S")
    body_limit: int = option(
        32 * MEGABYTE, Whole(1), "bytes that a request's body may have", "--max-body", metavar="BYTES"
    )
    models_dir: str | None = option(
        None, Text(), "serve every .gguf file below this folder, under its path without .gguf; files that come later "
        "are found when models are listed. Links that lead out of the folder are left out",
        "--models-dir", metavar="DIR", default_text="",
    )  # fmt: skip
    allow_pull: bool = option(
        False, Flag(), "let requests name any hf:owner/repo[:file-or-quant] or known model, which is fetched when it "
        "is first asked for: whoever may send requests may fill the disk",
        "--allow-pull", default_text="",
    )  # fmt: skip
    keep_alive: float = option(
        300.0, Real(), "seconds that a model stays loaded behind its last request; -1 for ever, 0 not at all",
        "--keep-alive", metavar="S",
    )  # fmt: skip
    max_models: int = option(
        3, Whole(0), "models that may be loaded at once; for another, the one that was used least recently goes. 0: "
        "as many as fit", "--max-models", "--models-max", metavar="N",
    )  # fmt: skip
    max_memory: int = option(
        AUTO, Bytes(), "memory that models may take together, as 12G: weights, full contexts and buffers, reckoned "
        "before one is loaded; none for no bound", "--max-memory", metavar="BYTES",
        default_text="auto, 80 %% of the machine's or the container's",
    )  # fmt: skip
    load_wait: float = option(
        60.0, Real(), "seconds that a model waits for others to end, where it fits only without them; then its "
        "requests get 503", "--load-wait", metavar="S",
    )  # fmt: skip
    slots_dir: str | None = option(
        None, Text(), "let clients save the texts of slots to files in this folder, and load them (POST "
        "/slots/0?action=save): whoever may send requests may fill the disk",
        "--slots-dir", "--slot-save-path", metavar="DIR", default_text="",
    )  # fmt: skip
