"""`ggufpy serve`'s words about models: which are served, and what is refused before anything is loaded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from engine import write_model

from ggufpy.cli import main
from ggufpy.commands import serve
from ggufpy.server import run
from ggufpy.server.service import Service
from ggufpy.server.settings import ServerOptions


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What would be served: the names, and the options."""
    found: dict[str, Any] = {}

    def instead(start: Any, options: ServerOptions) -> None:
        async def look() -> None:
            service: Service = start()
            found.update(names=service.pool.names, options=options, memory=service.pool.room.memory)
            await service.close()

        import asyncio

        asyncio.run(look())

    monkeypatch.setattr(run, "serve", instead)
    return found


def test_models_are_those_of_the_command_line_and_of_the_folder(tmp_path: Path, served: dict[str, Any]) -> None:
    one = str(write_model(tmp_path / "one.gguf"))
    write_model(tmp_path / "two.gguf")
    assert main(["serve", one, "-a", f"gpt=4={one}"]) == 1  # NAME ends at the first "="
    for words, names in (
        ([one], ("one",)),
        ([one, "--models-dir", str(tmp_path)], ("one", "two")),
        (["--models-dir", str(tmp_path)], ("one", "two")),
        (["--alias", f"named={one}"], ("named",)),
        (["smollm2", one], ("smollm2", "one")),
        ([], ("smollm2",)),
    ):
        assert main(["serve", *words]) == 0
        assert served["names"] == names


def test_bounds_are_read(tmp_path: Path, served: dict[str, Any]) -> None:
    words = ["--max-memory", "2G", "--models-max", "0", "--keep-alive", "-1", "--load-wait", "5", "--allow-pull"]
    assert main(["serve", "--models-dir", str(tmp_path), *words]) == 0
    options = served["options"]
    assert (options.max_memory, options.max_models, options.keep_alive) == (2 << 30, 0, -1.0)
    assert (options.load_wait, options.allow_pull, served["memory"]) == (5.0, True, 2 << 30)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-memory", "lots"], "is no size"),
        (["--max-models", "-1"], "too small"),
        (["--alias", "name"], "NAME=MODEL"),
        (["--models-dir", "/nowhere/at/all"], "is no folder"),
        (["/nowhere/at/all.gguf"], "no such file"),
        (["--alias", "x=/nowhere.gguf"], "no such file"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    words: list[str], said: str, served: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["serve", *words])
    except SystemExit as end:
        status = end.code  # type: ignore[assignment]
    assert status
    assert said in capsys.readouterr().err
    assert not served


def test_a_name_may_stand_for_a_model() -> None:
    assert serve.alias("a=b=c.gguf") == ("a", "b=c.gguf")
    for text in ("", "a", "=b", "a="):
        with pytest.raises(argparse.ArgumentTypeError):
            serve.alias(text)
