"""Structured output of a real model: whether every text fits its schema, and what holding it to a grammar costs.

    python tools/structured.py [MODEL] [--count 1000] [--schemas 20] [--pairs 20] [--temp 0.8] [--tokens 400] [--gbnf]

The schemas are those of structured_schemas.py, each with a request; texts are sampled with seeds that count up, and
looked at by the package `jsonschema`, formats included. Then the same requests are decoded in turns, held to the schema
and free, the same number of tokens each: the ratio of their rates is what a grammar costs. With --gbnf the second part
holds texts to llama.cpp's kind of JSON grammar in place of schemas. Prints a line a schema and a closing line; exits 1
where a text does not fit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema
from structured_schemas import SCHEMAS

import ggufpy
from ggufpy.generate.sampling import Guides
from ggufpy.grammar import Constraint, Grammar, Vocabulary

JSON_GBNF = r"""
root   ::= value
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
array  ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,9})? ([eE] [-+]? [0-9]{1,2})? ws
ws     ::= " "? | "\n" [ \t]{0,20}
"""


@dataclass(frozen=True)
class Case:
    """A schema, its grammar, and the tokens of a request for it."""

    name: str
    schema: dict[str, Any]
    grammar: Grammar
    prompt: list[int]


@dataclass(frozen=True)
class Text:
    """What came of a request, how many tokens it was, how long they took, and why it ended."""

    text: str
    tokens: int
    seconds: float
    finish: str | None


def cases(llm: ggufpy.Llama, count: int) -> list[Case]:
    """The first `count` schemas with their requests."""
    made = []
    for name, request, schema in SCHEMAS[:count]:
        content = f"{request} Answer with JSON that fits this schema: {json.dumps(schema)}"
        tokens = llm.chat_tokens([{"role": "user", "content": content}])
        made.append(Case(name, schema, Grammar.from_json_schema(schema, name), tokens))
    return made


def generate(llm: ggufpy.Llama, prompt: list[int], constraint: Constraint | None, most: int, **options: Any) -> Text:
    """One text, timed from its first token on."""
    guides = None if constraint is None else Guides(constraint)
    stream = llm.generate(prompt, guides=guides, limit=most, ignore_eos=constraint is None, **options)
    tokens: list[int] = []
    started = time.perf_counter()
    for token in stream:
        if not tokens:
            started = time.perf_counter()
        tokens.append(token)
    seconds = time.perf_counter() - started
    return Text(llm.tokenizer.decode(tokens), len(tokens), seconds, stream.finish)


def fault(text: Text, schema: dict[str, Any]) -> str | None:
    """Why a text does not fit a schema; None where it does."""
    if text.finish != "stop":
        return f"it did not end within {text.tokens} tokens"
    try:
        kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
        kind(schema, format_checker=kind.FORMAT_CHECKER).validate(json.loads(text.text))
    except (ValueError, jsonschema.ValidationError) as error:
        return str(error).split("\n")[0]
    return None


def check(llm: ggufpy.Llama, vocabulary: Vocabulary, args: argparse.Namespace) -> int:
    """Samples `args.count` texts over all schemas; how many do not fit."""
    wrong = seed = 0
    chosen = cases(llm, args.schemas)
    for number, case in enumerate(chosen):
        before, count = wrong, args.count * (number + 1) // len(chosen) - seed
        for _ in range(count):
            seed += 1
            constraint = Constraint(case.grammar, vocabulary)
            text = generate(llm, case.prompt, constraint, args.tokens, temp=args.temp, seed=seed)
            if (why := fault(text, case.schema)) is not None:
                wrong += 1
                print(f"{case.name}, seed {seed}: {why}: {text.text[:200]!r}")
        print(f"{count - wrong + before:6} of {count:4} fit  {case.name}", flush=True)
    print(f"{args.count - wrong} of {args.count} texts over {len(chosen)} schemas fit")
    return wrong


def pair(llm: ggufpy.Llama, vocabulary: Vocabulary, args: argparse.Namespace) -> None:
    """Decodes in turns, held to a grammar and free, and prints the ratio of the rates."""
    ratios, rates = [], {"held": [], "free": []}  # type: tuple[list[float], dict[str, list[float]]]
    chosen = cases(llm, args.schemas)
    gbnf = Grammar.from_gbnf(JSON_GBNF) if args.gbnf else None
    for i in range(args.pairs):
        case = chosen[i % len(chosen)]
        constraint = Constraint(gbnf or case.grammar, vocabulary)
        held = generate(llm, case.prompt, constraint, args.tokens, temp=args.temp, seed=i)
        if held.tokens < 8:
            continue
        free = generate(llm, case.prompt, None, held.tokens, temp=args.temp, seed=i)
        # the end token of a text that ended by itself took a step, too
        both = [(text.tokens - 1 + (text.finish == "stop")) / text.seconds for text in (held, free)]
        rates["held"].append(both[0])
        rates["free"].append(both[1])
        ratios.append(both[0] / both[1])
    if ratios:
        held_rate, free_rate = (statistics.median(rates[name]) for name in ("held", "free"))
        print(f"held {held_rate:.1f} t/s, free {free_rate:.1f} t/s, ratio {statistics.median(ratios):.3f} (medians)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks and times; 0 where all texts fit."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", default="smollm2")
    parser.add_argument("--count", type=int, default=1000, help="texts to check (0: none)")
    parser.add_argument("--schemas", type=int, default=len(SCHEMAS))
    parser.add_argument("--pairs", type=int, default=20, help="texts to time, held and free (0: none)")
    parser.add_argument("--temp", type=float, default=0.8)
    parser.add_argument("--tokens", type=int, default=400, help="tokens of a text at most")
    parser.add_argument("--gbnf", action="store_true", help="time llama.cpp's JSON grammar in place of schemas")
    args = parser.parse_args(arguments)
    with ggufpy.Llama(args.model, n_ctx=2048) as llm:
        vocabulary = Vocabulary(llm.tokenizer, llm.n_vocab())
        wrong = check(llm, vocabulary, args) if args.count else 0
        if args.pairs:
            pair(llm, vocabulary, args)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
