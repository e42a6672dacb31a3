"""Sampling on the command line: orders by letters, sequence breakers, and words that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from ggufpy import cli
from ggufpy.commands._options import sampling_options
from ggufpy.generate.sampling import Sampling


def sampling(*words: str) -> Sampling:
    """What `run` samples with."""
    given = sampling_options(cli.command_parser("run", cli.load_command("run")).parse_args(list(words)))
    return Sampling.from_options(**given)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], {}),
        (["--samplers", "top_k;temp"], {"samplers": ["top_k", "temperature"]}),
        (["--samplers", ""], {"samplers": []}),
        (["--sampler-seq", "kt"], {"samplers": ["top_k", "temperature"]}),
        (["--sampling-seq", "temp"], {"samplers": ["temperature", "penalties", "min_p", "top_p"]}),  # letters alone
        (["--samplers", "dry", "--sampler-seq", "k"], {"samplers": ["top_k"]}),
        (["--mirostat", "2", "--mirostat-ent", "3", "--mirostat-lr", ".2"],
         {"mirostat_mode": 2, "mirostat_tau": 3.0, "mirostat_eta": 0.2}),
        (["--dynatemp-range", "0.5", "--dynatemp-exp", "2"], {"dynatemp_range": 0.5, "dynatemp_exponent": 2}),
        (["--samplers", "min_p;adaptive-p", "--adaptive-target", "0.5", "--adaptive-decay", "0.8"],
         {"samplers": "ma", "adaptive_target": 0.5, "adaptive_decay": 0.8}),
        (["--dry-multiplier", "0.8", "--dry-base", "2", "--dry-allowed-length", "3", "--dry-penalty-last-n", "-1"],
         {"dry_multiplier": 0.8, "dry_base": 2.0, "dry_allowed_length": 3, "dry_penalty_last_n": -1}),
        (["--dry-sequence-breaker", r"\n", "--dry-sequence-breaker", r"a\x41"],
         {"dry_sequence_breakers": ["\n", "aA"]}),
        (["--no-escape", "--dry-sequence-breaker", r"\n"], {"dry_sequence_breakers": [r"\n"]}),
        (["--dry-sequence-breaker", "none"], {"dry_sequence_breakers": []}),
        (["--dry-sequence-breaker", "a", "--dry-sequence-breaker", "none", "--dry-sequence-breaker", "b"],
         {"dry_sequence_breakers": ["b"]}),
        (["--dry-sequence-breaker", "é"], {"dry_sequence_breakers": ["é"]}),
    ],
)  # fmt: skip
def test_words_of_llama_cpp(words: list[str], options: dict[str, Any]) -> None:
    assert sampling(*words) == Sampling.from_options(**options)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--samplers", "top_k;heat"], "there is no sampler 'heat'; there are penalties, dry"),
        (["--sampler-seq", "kz"], "'z' is no letter of e penalties, d dry"),
        (["--dry-allowed-length", "-1"], "the least is 0"),
        (["--mirostat", "x"], "not a whole number"),
        (["--mirostat", "3"], "mirostat is 3, and must be one of 0, 1, 2"),
        (["--top-p", "1.5"], "top_p is 1.5, and must be from 0 to 1"),
        (["--dry-base", "0.5"], "dry_base is 0.5, and must be 1 or more"),
        (["--adaptive-decay", "1"], "adaptive_decay is 1.0, and must be from 0 to 0.99"),
        (["--repeat-penalty", "0"], "repeat_penalty is 0.0, and must be above 0"),
        (["--seed", "-2"], "seed is -2"),
    ],
)
def test_words_that_mean_nothing(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "m.gguf", "-p", "a", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_breaker_need_not_be_utf8() -> None:
    assert sampling("--dry-sequence-breaker", r"\xff").dry_sequence_breakers == ("\udcff",)


def test_the_help_says_what_letters_mean() -> None:
    text = " ".join(cli.command_parser("run", cli.load_command("run")).format_help().split())
    assert "e penalties, d dry, s top_n_sigma, k top_k, y typ_p, p top_p, m min_p, x xtc, t temperature" in text
    assert "top_p, min_p, xtc, temperature, infill, adaptive_p; what is not named does not run" in text
    assert "(default: all but infill, adaptive_p, in this order)" in text
