"""ollama's bodies: fields, options, messages and times by themselves, and whatever else a client may send."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as some
from llm_fakes import fake_llama
from serving import Running, serving

from ggufpy.api.ollama import about, asked, fields, messages, moments, options, shapes
from ggufpy.api.openai.texts import Delta
from ggufpy.chat.syntax import Arguments, Call, Content, Thought
from ggufpy.errors import GGUFError
from ggufpy.grammar import Grammar
from ggufpy.server.families.ollama import OLLAMA

# -- times --


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, None), (0, 0), ("0", 0), (300, 300), (1.5, 1.5), (-1, -1), ("-1", -1), ("5m", 300), ("1h30m", 5400),
        ("-1m", -1), ("300ms", 0.3), ("1.5h", 5400), ("2s", 2), (1e300, -1), ("9" * 18, -1), (10**400, None),
    ],
)  # fmt: skip
def test_keep_alive_is_read_as_go_does(given: Any, seconds: float | None) -> None:
    if given == 10**400:
        with pytest.raises(GGUFError, match="keep_alive"):
            moments.keep_alive(given)
    else:
        assert moments.keep_alive(given) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("given", ["", "soon", "5", "m", "5 m", "5x", "1e3", "nan", "9" * 400 + "h", True, [], {}])
def test_what_is_no_time_is_refused(given: Any) -> None:
    if given == "5":
        assert moments.keep_alive(given) == 5
    else:
        with pytest.raises(GGUFError, match="keep_alive is"):
            moments.keep_alive(given)


def test_moments_are_rfc_3339() -> None:
    assert moments.written(0.25) == "1970-01-01T00:00:00.250000000Z"
    assert len(moments.now()) == len("2026-01-01T00:00:00.000000000Z")


# -- options --


def served(n_ctx: int = 2048, own: int | None = 8192) -> Any:
    """A model that is served with `n_ctx` and was made for `own`."""
    metadata: dict[str, Any] = {"general.architecture": "llama"}
    if own is not None:
        metadata["llama.context_length"] = own
    return SimpleNamespace(metadata=metadata, n_ctx=lambda: n_ctx)


def test_defaults_are_ollamas() -> None:
    sampling, limit = options.sampling(None, served())
    assert limit is None
    assert sampling == {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.0, "typical_p": 1.0,
                        "repeat_last_n": 64, "repeat_penalty": 1.1}  # fmt: skip


def test_options_are_taken() -> None:
    given = {"temperature": 0, "seed": 3.0, "num_predict": 5, "stop": ["x"], "num_gpu": 99, "min_p": None}
    sampling, limit = options.sampling(given, served())
    assert (sampling["temperature"], sampling["seed"], sampling["stop"], limit) == (0, 3, ["x"], 5)
    assert type(sampling["seed"]) is int
    assert "num_gpu" not in sampling


@pytest.mark.parametrize(("wanted", "n_ctx", "own", "fits"), [
    (1024, 2048, 8192, True), (2048, 2048, 8192, True), (4096, 2048, 8192, False),
    (1 << 20, 8192, 8192, True),  # more than the model was made for is what it was made for, as with ollama
    (1 << 20, 4096, 8192, False), (4096, 2048, None, False),
])  # fmt: skip
def test_contexts_that_are_not_served_are_refused(wanted: int, n_ctx: int, own: int | None, fits: bool) -> None:
    model = served(n_ctx, own)
    if fits:
        options.sampling({"num_ctx": wanted}, model)
    else:
        with pytest.raises(GGUFError, match=f"num_ctx is {wanted}, and the model is served with {n_ctx}"):
            options.sampling({"num_ctx": wanted}, model)


@pytest.mark.parametrize(
    "given",
    [{"seed": 1.5}, {"use_mmap": 1}, {"temperature": "hot"}, {"top_k": True}, {"num_predict": -3}, {"tfs_z": 0.5},
     {"penalize_newline": False}, {"num_ctx": 0}, {"temperature": -0.1}, {"colour": 1}],
)  # fmt: skip
def test_options_that_cannot_be_are_named(given: Mapping[str, Any]) -> None:
    with pytest.raises(GGUFError, match=r"^options\." + next(iter(given))):
        options.checked(given)


# -- thoughts and formats --


@pytest.fixture
def options_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a chat's body becomes, with a model that thinks or not: options of OpenAI's kind."""
    monkeypatch.setattr(asked.asked, "chat_request", lambda llm, said, limit, given: given)

    def ask(thinks: bool, **body: Any) -> dict[str, Any]:
        model = served()
        model.metadata["tokenizer.chat_template"] = "{{ enable_thinking }}" if thinks else "{{ messages }}"
        made: Any = asked.chat_request(model, {"messages": [{"role": "user"}], **body})
        return made

    return ask


@pytest.mark.parametrize(
    ("think", "on", "effort"), [(None, True, None), (True, True, None), (False, False, None), ("low", True, "low")]
)
def test_models_that_can_think_do_unless_they_are_told_not_to(
    options_of: Any, think: Any, on: bool, effort: str | None
) -> None:
    made = options_of(True, think=think)
    assert made["chat_template_kwargs"] == {"enable_thinking": on, "thinking": on}
    assert made.get("reasoning_effort") == effort


def test_models_that_cannot_think_are_not_asked_to(options_of: Any) -> None:
    assert "chat_template_kwargs" not in options_of(False, think=False)
    assert "chat_template_kwargs" not in options_of(False)
    for think in (True, "high"):
        with pytest.raises(GGUFError, match="'m' does not support thinking"):
            options_of(False, think=think, model="m")
    for think in ("much", 1, []):
        with pytest.raises(GGUFError, match=r"^think"):
            options_of(True, think=think)


def test_formats_are_openais(options_of: Any) -> None:
    schema = {"type": "object"}
    assert options_of(False, format=schema)["grammar"] == Grammar.from_json_schema(schema, "format")
    with pytest.raises(GGUFError, match=r"^format"):
        options_of(False, format={"type": "strin"})
    assert options_of(False, format="json")["response_format"] == {"type": "json_object"}
    assert "response_format" not in options_of(False, format="")
    for wrong in ("xml", 5, [schema]):
        with pytest.raises(GGUFError, match=r"^format is"):
            options_of(False, format=wrong)


# -- messages --


def test_answers_find_their_calls() -> None:
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    other = {"id": "x1", "function": {"name": "mul", "arguments": "{}"}}
    said = [
        {"role": "USER", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": [call, other]},
        {"role": "tool", "content": "6", "tool_name": "mul"},
        {"role": "tool", "content": "2"},
    ]
    made = messages.plain(said)
    assert [message["role"] for message in made] == ["user", "assistant", "tool", "tool"]
    ids = [one["id"] for one in made[1]["tool_calls"]]
    assert ids[1] == "x1"
    assert [(one["tool_call_id"], one["name"]) for one in made[2:]] == [("x1", "mul"), (ids[0], "add")]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (5, "messages[0] is 5"), ({"content": "x"}, "messages[0].role"), ({"role": "wizard"}, "messages[0].role"),
        ({"role": "user", "content": ["x"]}, "messages[0].content"), ({"role": "user", "images": ["x"]}, "images"),
        ({"role": "user", "colour": 1}, "colour is no field"), ({"role": "tool", "content": "x"}, "no call before"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[0].tool_calls[0] must be"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 5}}]}, "arguments is 5"),
        ({"role": "user", "tool_calls": [{"function": {"name": "f"}}]}, "only an assistant"),
    ],
)  # fmt: skip
def test_messages_that_cannot_be_are_named(message: Any, said: str) -> None:
    with pytest.raises(GGUFError) as caught:
        messages.plain([message])
    assert said in str(caught.value)


# -- answers --


def test_calls_are_told_when_they_are_whole() -> None:
    teller = shapes.Teller(True)
    first = teller.part([Delta("", pieces=(Thought("so"), Call(0, "c0", "add"), Arguments(0, '{"a":')))])
    assert (first.thinking, first.content, first.calls) == ("so", "", ())
    second = teller.part([Delta("", pieces=(Arguments(0, "1}"), Call(1, "c1", "mul")))])
    assert [call["function"] for call in second.calls] == [{"index": 0, "name": "add", "arguments": {"a": 1}}]
    third = teller.part([Delta("", pieces=(Content("done"),), finish="stop")])
    assert [call["function"]["arguments"] for call in third.calls] == [{}]
    assert third.content == "done"


def test_lines_of_a_stream_are_lines_for_all_clients() -> None:
    said = {"response": "".join(map(chr, range(0x100))) + "\u2028\u2029", "done": False}
    frame = OLLAMA.frame(said)
    assert frame.decode().splitlines() == [frame.decode()[:-1]]
    assert json.loads(frame) == said


def test_parameters_are_told_as_ollama_does() -> None:
    sizes = (999, 1000, 134_515_008, 135_000_000, 1_235_814_432, 7 * 10**9)
    assert [about.human(size) for size in sizes] == ["999", "1K", "134.52M", "135M", "1.2B", "7B"]


@pytest.mark.parametrize(
    ("name", "told"),
    [("smollm2", "smollm2:latest"), ("hf:o/m", "hf.co/o/m:latest"), ("hf:o/m:Q4_0", "hf.co/o/m:Q4_0"),
     ("a/b", "a/b:latest")],
)  # fmt: skip
def test_names_go_there_and_back(name: str, told: str) -> None:
    assert about.told_name(name) == told
    assert about.asked_name(told) == name


# -- whatever comes --


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving({"fake": lambda: fake_llama(n_ctx=256, n_parallel=2)}) as running:
        yield running


PATHS = ("/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show", "/api/pull")
NUMBERS = some.integers() | some.floats(allow_nan=False, allow_infinity=False)
SCALARS = some.none() | some.booleans() | NUMBERS | some.text()
VALUES = some.recursive(
    SCALARS, lambda each: some.lists(each, max_size=3) | some.dictionaries(some.text(max_size=5), each, max_size=3),
    max_leaves=6,
)  # fmt: skip
LIKELY = some.sampled_from(["", "json", "5m", -1, 0, 1, 0.5, [], {}, True, False, "tool", "assistant", 1e308, 1 << 70])
MESSAGES = some.lists(some.fixed_dictionaries({
    "role": some.sampled_from(["system", "user", "assistant", "tool"]), "content": some.text(max_size=20),
}) | VALUES, max_size=4)  # fmt: skip
OPTIONS = some.dictionaries(some.sampled_from(sorted(fields.FIELDS["options"])), LIKELY | SCALARS, max_size=4)


@some.composite
def bodies(draw: Any) -> tuple[str, dict[str, Any]]:
    """A path, and a body of its fields with values of all kinds."""
    path = draw(some.sampled_from(PATHS[:2] * 4 + PATHS))
    names = draw(some.lists(some.sampled_from(sorted(fields.FIELDS[path])), max_size=4, unique=True))
    body = {name: draw(LIKELY | VALUES) for name in names}
    if draw(some.booleans()):
        body["messages" if path == PATHS[0] else "prompt"] = draw(MESSAGES if path == PATHS[0] else some.text())
    if draw(some.booleans()):
        body["options"] = draw(OPTIONS)
    if draw(some.integers(0, 4)):
        body["model"] = "fake"
    return path, body


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(bodies())
def test_nothing_that_a_client_sends_is_a_failure(server: Running, sent: tuple[str, dict[str, Any]]) -> None:
    path, body = sent
    assume(not body.get({"/api/embed": "input", "/api/embeddings": "prompt"}.get(path, "")))  # the fake has no vectors
    answer = server.ask(path, {"keep_alive": None, **body})
    assert answer.status < 500, answer.body
    lines = [json.loads(line) for line in answer.body.split(b"\n") if line]
    assert all(isinstance(line, dict) for line in lines)
    if answer.status != 200:
        assert list(lines[0]) == ["error"]
        assert "\n" not in lines[0]["error"]


def test_texts_to_embed_have_a_bound(server: Running) -> None:
    answer = server.ask("/api/embed", {"model": "fake", "input": ["a"] * 2049})
    assert (answer.status, answer.json) == (400, {"error": "input has 2,049 texts, and may have 2,048"})
    assert server.ask("/api/embed", {"model": "fake", "input": []}).status == 200
