"""`ggufpy batch`: answers to files of requests, whole and once each, whatever ends a run."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from batch_program import batch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from responding import SCRIPTS, responding
from test_embeddings import llama, plan_of, source_of

from ggufpy import cli
from ggufpy.commands.batch import _report
from ggufpy.errors import GGUFError
from ggufpy.server.batch.answers import Answers
from ggufpy.server.batch.calls import URLS
from ggufpy.server.batch.lines import read, survey
from ggufpy.server.batch.run import Outcome, alike

ROOT = Path(__file__).resolve().parent.parent
CHAT = "/v1/chat/completions"


def request(custom_id: str, url: str = CHAT, **body: Any) -> dict[str, Any]:
    said = {"messages": [{"role": "user", "content": "@hello"}], "temperature": 0} if url == CHAT else {}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {**said, **body}}


def written(path: Path, lines: list[Any]) -> Path:
    made = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(made) + "\n", encoding="utf-8")
    return path


def answers(path: Path) -> dict[str, dict[str, Any]]:
    """The answers by id: every line is whole, and no id comes twice."""
    raw = path.read_bytes()
    assert raw.endswith(b"\n") or not raw
    lines = [json.loads(line) for line in raw.splitlines()]
    made = {line["custom_id"]: line for line in lines}
    assert len(made) == len(lines)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


# -- what is answered --


def test_every_url_is_answered_in_its_shape(folder: Path) -> None:
    told = {
        CHAT: {},
        "/v1/completions": {"prompt": "@hello;a", "max_tokens": 30, "temperature": 0},
        "/v1/responses": {"input": "@hello", "temperature": 0},
    }
    given = written(folder / "in", [request(url, url, **body) for url, body in told.items()])
    outcome = batch(given, folder / "out")
    made = {url: line["response"]["body"] for url, line in answers(folder / "out").items()}
    assert made[CHAT]["choices"][0]["message"]["content"] == SCRIPTS["hello"]
    assert made["/v1/completions"]["choices"][0]["text"] == SCRIPTS["hello"]
    assert made["/v1/responses"]["output"][0]["content"][0]["text"] == SCRIPTS["hello"]
    assert {*told, "/v1/embeddings"} == {*URLS}
    assert (outcome.requests, outcome.failed, outcome.skipped) == (3, 0, 0)
    assert outcome.tokens == 3 * len(SCRIPTS["hello"].encode())
    for line in answers(folder / "out").values():
        assert (line["error"], line["response"]["status_code"]) == (None, 200)
        assert line["id"].startswith("batch_req_")


def test_vectors_are_made_beside_texts(folder: Path) -> None:
    plan = plan_of()
    inputs = ["one two", ["three", "four"], [5, 6, 7]]
    given = written(folder / "in", [request(str(i), "/v1/embeddings", input=one) for i, one in enumerate(inputs)])
    outcome = batch(given, folder / "out", llama(plan, source_of(plan)))
    made = [answers(folder / "out")[str(i)]["response"]["body"] for i in range(3)]
    assert [len(one["data"]) for one in made] == [1, 2, 1]
    assert all(sum(x * x for x in row["embedding"]) == pytest.approx(1) for one in made for row in one["data"])
    assert outcome.prompt_tokens == sum(one["usage"]["prompt_tokens"] for one in made)
    assert (outcome.failed, {one["model"] for one in made}) == (0, {"fake"})


def test_a_request_that_is_wrong_has_its_error_for_an_answer(folder: Path) -> None:
    lines = [
        request("1", bogus=1), request("2", messages=[]), request("3", stream=True), request("4"),
        request("5", "/v1/responses", input="x", previous_response_id="resp_1"), request("6", "/v1/completions"),
        request("7", max_tokens=-5), request("8", messages=[{"role": "user", "content": "x" * 9000}]),
        request("9", "/v1/embeddings", input=[]),
    ]  # fmt: skip
    outcome = batch(written(folder / "in", lines), folder / "out")
    made = {name: line["response"] for name, line in answers(folder / "out").items()}
    assert {name: one["status_code"] for name, one in made.items()} == {
        **dict.fromkeys("123678", 400), "9": 400, "4": 200, "5": 404
    }  # fmt: skip
    assert "bogus" in made["1"]["body"]["error"]["message"]
    assert made["8"]["body"]["error"]["code"] == "context_length_exceeded"
    assert all("\n" not in one["body"]["error"]["message"] for name, one in made.items() if name != "4")
    assert (outcome.requests, outcome.failed) == (9, 8)


def test_many_are_at_work_together(folder: Path) -> None:
    given = written(folder / "in", [request(str(i)) for i in range(40)])
    steps = {}
    for places in (1, 8):
        llm = responding(n_parallel=places)
        made: list[Any] = llm.engine.steps  # type: ignore[attr-defined]
        batch(given, folder / str(places), llm)
        steps[places] = len(made)
        assert len(answers(folder / str(places))) == 40
    assert steps[8] < steps[1] / 3


def test_what_begins_alike_is_asked_in_a_row(folder: Path) -> None:
    systems = [[{"role": "system", "content": name * 50}, {"role": "user", "content": str(i)}]
               for i in range(6) for name in ("a", "b", "c")]  # fmt: skip
    given = written(folder / "in", [request(str(i), messages=said) for i, said in enumerate(systems)])
    order = [line.body["messages"][0]["content"][0] for line in alike(read(given))]
    assert order == sorted(order)
    assert sorted(line.number for line in alike(read(given), window=5)) == list(range(1, 19))


# -- files that cannot be --


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: it is no JSON"),
        ("[1]", "line 2: it must be an object"),
        ('{"custom_id": "\\ud800"}', "line 2: it has a lone surrogate"),
        ("[" * 100_000, "line 2: it is nested too deeply"),
        (request("1"), "line 2: custom_id '1' is that of line 1"),
        (request(""), "line 2: custom_id has 0 characters"),
        ({**request("2"), "custom_id": 2}, "line 2: custom_id is 2"),
        ({**request("2"), "method": "GET"}, "line 2: method is 'GET'; it must be \"POST\""),
        (request("2", "/v1/models"), "line 2: url is '/v1/models'; it must be one of"),
        ({**request("2"), "body": []}, "line 2: body is []"),
        ({**request("2"), "id": 1}, "line 2: id is no field"),
    ],
)
def test_a_broken_line_is_told_before_anything_is_answered(folder: Path, line: Any, said: str) -> None:
    given = written(folder / "in", [request("1"), line, request("3")])
    with pytest.raises(GGUFError) as error:
        batch(given, folder / "out")
    assert f"{given}: {said}" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (folder / "out").exists()


def test_several_broken_lines_are_counted_and_empty_ones_passed_over(folder: Path) -> None:
    with pytest.raises(GGUFError, match=r"line 1: .*; line 2: .*; line 3: .*; and 4 more\. Nothing"):
        survey(written(folder / "in", ["x"] * 7))
    with pytest.raises(GGUFError, match="no requests"):
        survey(written(folder / "in", ["", "  "]))
    given = folder / "in"
    first, second = (json.dumps(request(name)).encode() for name in "12")
    given.write_bytes(b"\xef\xbb\xbf" + first + b"\r\n\r\n" + second)
    assert [(line.number, line.custom_id) for line in read(given)] == [(1, "1"), (3, "2")]


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("notes of mine\n", "line 1: it is no JSON"),
        ('{"a": 1}\n', "line 1 is no answer of a batch"),
        ('{"custom_id": "9", "response": null}\n', "line 1 answers '9', which is not asked for"),
        ('{"custom_id": "1", "response": null}\n' * 2, "line 2 answers '1' once more"),
    ],
)
def test_a_file_that_is_no_answer_to_the_requests_is_left_alone(folder: Path, there: str, said: str) -> None:
    given = written(folder / "in", [request("1")])
    (folder / "out").write_text(there)
    with pytest.raises(GGUFError) as error:
        batch(given, folder / "out")
    assert said in str(error.value)
    assert (folder / "out").read_text() == there


@pytest.mark.skipif(sys.platform == "win32", reason="files are locked where there is flock")
def test_two_runs_do_not_write_one_file(folder: Path) -> None:
    wanted = survey(written(folder / "in", [request("1")]))
    with Answers(folder / "out", wanted), pytest.raises(GGUFError, match="is being written by another run"):
        Answers(folder / "out", wanted)
    with Answers(folder / "out", wanted) as again:
        assert not again.done


# -- runs that go on --


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 10_000))
def test_a_file_that_is_cut_anywhere_is_gone_on_with(folder: Path, cut: int) -> None:
    given, out = written(folder / "in", [request(str(i)) for i in range(6)]), folder / "out"
    out.unlink(missing_ok=True)
    batch(given, out)
    whole = out.read_bytes()
    kept = whole[: cut % (len(whole) + 1)]
    out.write_bytes(kept)
    outcome = batch(given, out)
    assert out.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    assert outcome.skipped == kept.count(b"\n")
    assert outcome.requests == 6 - outcome.skipped
    assert sorted(answers(out)) == [str(i) for i in range(6)]


def killed_and_gone_on_with(folder: Path, count: int, seed: int) -> int:
    """Runs a batch until it is done, killing it at random moments; how often it was killed."""
    chance = random.Random(seed)
    given, out = written(folder / "in", [request(str(i)) for i in range(count)]), folder / "out"
    words = [sys.executable, str(ROOT / "tests" / "batch_program.py"), str(given), str(out)]
    for kills in range(100):
        before = out.read_bytes().count(b"\n") if out.exists() else 0
        goal = before + chance.randrange(1, 1 + count // 3)
        with subprocess.Popen(words, cwd=ROOT) as process:
            end = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < end:
                if goal < count and out.exists() and out.read_bytes().count(b"\n") >= goal:
                    time.sleep(chance.random() * 0.02)
                    process.kill()
                    break
                time.sleep(0.001)
            else:
                process.kill()
        if process.returncode == 0:
            assert sorted(answers(out), key=int) == [str(i) for i in range(count)]
            return kills
        raw = out.read_bytes()
        for line in raw[: raw.rfind(b"\n") + 1].splitlines():
            json.loads(line)
    raise AssertionError("it never ended")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.usefixtures("deadline")
def test_a_batch_that_is_killed_goes_on(folder: Path) -> None:
    assert killed_and_gone_on_with(folder, 12, 1) >= 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.usefixtures("deadline")
@pytest.mark.parametrize("seed", range(8))
def test_a_batch_that_is_killed_often_goes_on(folder: Path, seed: int) -> None:
    killed_and_gone_on_with(folder, 120, seed)


# -- the command --


def test_the_command_needs_no_package_of_the_server(folder: Path) -> None:
    """It imports neither starlette nor what comes with it."""
    program = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('starlette', 'uvicorn', 'anyio', 'httptools', 'prometheus_client'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        "sys.path.insert(0, 'tests')\n"
        "from pathlib import Path\n"
        "import ggufpy.commands.batch\n"
        "from batch_program import batch\n"
        "print(batch(Path(sys.argv[1]), Path(sys.argv[2])).requests)\n"
    )
    lines = [request("1"), request("2", "/v1/responses", input="@hello"), request("3", "/v1/completions", prompt="a")]
    given = written(folder / "in", lines)
    words = [sys.executable, "-c", program, str(given), str(folder / "out")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "3"


@pytest.mark.parametrize(
    ("there", "words", "said"),
    [
        ([request("1")], ["{in}", "{in}"], "OUT is IN"),
        (["x"], ["{in}", "{out}"], "line 1: it is no JSON"),
        ([request("1")], ["{none}", "{out}"], "No such file"),
        ([request("1")], ["{in}", "{none}/out"], "cannot write"),
        ([request("1")], ["{folder}", "{out}"], "IN is no file"),
        ([request("1")], ["{in}", "{out}", "-m", "/none.gguf"], "none.gguf"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(
    folder: Path, there: list[Any], words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"in": written(folder / "in", there), "out": folder / "out", "none": folder / "none", "folder": folder}
    assert cli.main(["batch", *(word.format(**places) for word in words)]) != 0
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Outcome(1), "1 request answered\n"),
        (Outcome(2), "2 requests answered\n"),
        (Outcome(1, 1, 1200), "0 requests answered; 1 refused, with their errors in out; 1,200 had been before\n"),
    ],
)
def test_the_command_says_what_was_done(outcome: Outcome, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    _report(argparse.Namespace(answers="out", json=False), outcome)
    assert capsys.readouterr().err.startswith(f"ggufpy: {said}")
