"""How a server is to be run: bounds, defaults, help and flags, which are those of the command line, too."""

from __future__ import annotations

from ggufpy.support.options import Real, Text, Texts, Whole, option
from ggufpy.support.records import dataclass

MEGABYTE = 1 << 20


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
    keep_alive: float = option(
        300.0, Real(), "seconds that a model stays loaded without requests; -1 for ever", "--keep-alive", metavar="S"
    )
    max_models: int = option(
        3, Whole(1), "models that may be loaded at once", "--max-models", metavar="N"
    )
