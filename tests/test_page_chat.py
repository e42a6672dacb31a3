"""Chats on the page, in a browser: streaming and stopping, other versions, what servers refuse."""

from __future__ import annotations

import pytest
from page_browser import Page
from page_fake import N_CTX, FakeServer, words

pytestmark = pytest.mark.browser

SCHEMA = '{"type": "object", "properties": {"name": {"type": "string"}}}'


def test_a_message_and_its_answer(page: Page) -> None:
    assert page.find("#empty").is_displayed()
    page.say("good morning")
    assert page.answers() == ["You said: good morning"]
    assert page.texts(".said") == ["good morning"]
    assert not page.find("#empty").is_displayed()
    body = page.plan.bodies[-1]
    assert body == {
        "model": "smollm2",
        "messages": [{"role": "user", "content": "good morning"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert page.texts(".stats") == ["4 tokens · 12.5 tokens/s"]
    page.wait_text("#context-label", " of ")
    assert page.texts("#context-label") == [f"Context 24 of {N_CTX:,}"]
    assert page.texts("#speed") == ["12.5 tokens/s"]
    page.say("and again")
    assert [each["content"] for each in page.plan.bodies[-1]["messages"]] == [
        "good morning",
        "You said: good morning",
        "and again",
    ]
    assert page.focused() == "Message"


def test_lines_of_one_message(page: Page) -> None:
    page.write("one")
    page.chord("\ue008", "\n")  # Shift and Enter
    page.say("two")
    assert page.plan.bodies[-1]["messages"][0]["content"] == "one\ntwo"
    assert page.texts(".said") == ["one\ntwo"]


def test_an_answer_is_shown_while_it_comes_and_stops(page: Page) -> None:
    page.plan.answers["count"] = words(" ".join(str(number) for number in range(1000)))
    page.plan.delay = 0.02
    for way in ("button", "key"):
        page.write("count")
        page.keys("\n")
        page.wait_text(".message.assistant:last-child .prose", "0 1 2 3")
        assert page.find(".message.assistant:last-child article").get_attribute("aria-busy") == "true"
        assert page.texts("#announcer") in ([""], ["Stopped."])  # not a word for each token
        gone = page.plan.gone
        page.press("Stop the answer") if way == "button" else page.keys("\ue00c")
        page.finished()
        page.wait_text(".message.assistant:last-child .state", "Stopped.")
        page.wait(lambda before=gone: page.plan.gone > before)  # type: ignore[misc]
        assert page.focused() == "Message"
    first, second = page.answers()
    assert first.startswith("0 1 2 3")
    assert "999" not in first
    page.plan.delay = 0
    page.say("go on")
    roles = [each["role"] for each in page.plan.bodies[-1]["messages"]]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    assert page.plan.bodies[-1]["messages"][3]["content"] == second


def test_thoughts_are_folded(page: Page) -> None:
    page.plan.answers["think"] = [{"reasoning_content": "First **this**."}, *words("Then that.")]
    page.say("think")
    assert page.answers() == ["Then that."]
    assert page.texts(".thoughts summary") == ["Thoughts"]
    assert not page.find(".thoughts .prose").is_displayed()
    page.find(".thoughts summary").click()
    assert page.find(".thoughts .prose strong").text == "this"
    page.say("next")
    assert "First" not in str(page.plan.bodies[-1]["messages"])


def test_an_edited_message_begins_another_line(page: Page) -> None:
    page.say("red")
    page.say("after red")
    page.press("Edit message", ".message.user:first-child")
    area = page.find(".editor")
    assert area.get_attribute("value") == "red"
    area.send_keys("\ue009a\ue000", "blue\n")
    page.finished()
    assert page.texts(".said") == ["blue"]
    assert page.answers() == ["You said: blue"]
    assert len(page.plan.bodies[-1]["messages"]) == 1
    assert page.texts(".versions span") == ["2 / 2"]
    page.press("Earlier version")
    assert page.texts(".said") == ["red", "after red"]
    page.press("Later version")
    assert page.texts(".said") == ["blue"]
    page.press("Edit message")
    page.keys("green\ue00c")  # Esc
    assert page.texts(".said") == ["blue"]
    assert page.focused() == "Edit message"


def test_the_last_message_is_edited_from_an_empty_box(page: Page) -> None:
    page.say("first")
    page.find("#message").send_keys("\ue013")
    assert page.focused() == "Edit message"
    page.keys(" and more\n")
    page.finished()
    assert page.texts(".said") == ["first and more"]


def test_another_answer_is_a_version(page: Page) -> None:
    page.say("tell me")
    page.plan.answers["tell me"] = words("Something else.")
    page.press("Answer again")
    page.finished()
    assert page.answers() == ["Something else."]
    assert page.texts(".versions span") == ["2 / 2"]
    page.press("Earlier version")
    assert page.answers() == ["You said: tell me"]
    page.say("on")
    assert page.plan.bodies[-1]["messages"][1]["content"] == "You said: tell me"


def test_the_system_prompt_of_a_conversation(page: Page) -> None:
    page.find("#system-part summary").click()
    page.find("#system").send_keys("Be brief.")
    page.say("hello")
    assert page.plan.bodies[-1]["messages"][0] == {"role": "system", "content": "Be brief."}
    page.press("New conversation")
    page.say("hello")
    assert [each["role"] for each in page.plan.bodies[-1]["messages"]] == ["user"]


def test_settings_go_with_requests(page: Page) -> None:
    page.plan.models = ["smollm2"]
    page.reload()
    page.wait(lambda: any("/props" in path for path in page.plan.paths))
    page.press("Settings")
    page.wait(lambda: page.find("#field-top_k").get_attribute("placeholder") == "40")
    assert page.find("#field-temperature").get_attribute("placeholder") == "0.8"
    for name, text in (("temperature", "0"), ("top_k", "20"), ("max_tokens", "64"), ("seed", "7"), ("min_p", "0.1")):
        page.find(f"#field-{name}").send_keys(text)
    page.find("#field-top_p").send_keys("7")
    page.find("#stops").send_keys("END\nSTOP")
    page.find("#more").send_keys('{"messages": 1}')
    assert page.texts("#error-top_p") == ["Must be a number from 0 to 1."]
    assert page.texts("#more-error") == ['The page sets "messages" itself.']
    page.find("#more").clear()
    page.find("#more").send_keys('{"typical_p": 0.9}')
    assert page.texts("#more-error") == [""]
    page.press("Close", "#settings-dialog")
    page.say("hello")
    body = page.plan.bodies[-1]
    numbers = {"temperature": 0, "top_k": 20, "max_tokens": 64, "seed": 7, "min_p": 0.1, "typical_p": 0.9}
    wanted = {**numbers, "stop": ["END", "STOP"]}
    assert {name: body.get(name) for name in wanted} == wanted
    assert "top_p" not in body
    page.reload()
    page.press("Settings")
    assert page.find("#field-temperature").get_attribute("value") == "0"
    page.press("Reset", "#settings-dialog")
    page.press("Close", "#settings-dialog")
    page.say("hello")
    assert not set(page.plan.bodies[-1]) & set(wanted)


def test_another_model(page: Page) -> None:
    assert not any("/props" in path for path in page.plan.paths)  # that would load a model
    page.find("#model option[value=another]").click()
    page.say("hello")
    page.wait(lambda: any("/props?model=another" in path for path in page.plan.paths))
    assert page.plan.bodies[-1]["model"] == "another"
    page.reload()
    assert page.find("#model").get_attribute("value") == "another"


def test_answers_held_to_a_schema(page: Page) -> None:
    page.plan.answers["who"] = [{"content": '{"name": '}, {"content": '"Ada"}'}]
    page.press("JSON")
    assert page.focused() == "Answer as JSON that fits this schema"
    page.keys('{"type": "object",')
    assert "This is not JSON" in page.texts("#schema-error")[0]
    page.write("who\n")
    assert page.plan.bodies == []
    assert page.find("#message").get_attribute("value") == "who"
    page.find("#schema").clear()
    page.find("#message").send_keys("\n")
    page.wait_text("#schema-error", "Write a JSON schema")
    page.find("#schema").send_keys("[1]")
    assert "must be a JSON object" in page.texts("#schema-error")[0]
    page.find("#schema").clear()
    page.find("#schema").send_keys(SCHEMA)
    assert page.texts("#schema-error") == [""]
    page.find("#message").send_keys("\n")
    page.finished()
    form = page.plan.bodies[-1]["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["strict"] is True
    assert form["json_schema"]["schema"]["properties"] == {"name": {"type": "string"}}
    assert page.texts(".code code") == ['{"name": "Ada"}']
    page.press("JSON")
    page.say("free")
    assert "response_format" not in page.plan.bodies[-1]


def test_a_tool_call_is_shown_and_goes_on_as_text(page: Page) -> None:
    page.plan.answers["weather"] = [
        {"tool_calls": [{"index": 0, "id": "1", "function": {"name": "weather", "arguments": '{"city"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ': "Rome"}'}}]},
    ]
    page.plan.finish = "tool_calls"
    page.say("weather")
    assert page.texts(".calls") == ['{"name":"weather","arguments":{"city":"Rome"}}']
    page.say("sunny")
    assert [each["role"] for each in page.plan.bodies[-1]["messages"]] == ["user", "assistant", "user"]


def test_an_answer_at_the_limit_says_so(page: Page) -> None:
    page.plan.finish = "length"
    page.say("hello")
    page.wait_text(".remark", "The limit of tokens ended this answer.")


def test_a_key_is_asked_for(page: Page) -> None:
    page.plan.key = "secret"
    page.write("hello")
    page.keys("\n")
    page.wait(lambda: page.find("#ask-dialog").is_displayed())
    page.finished()
    assert page.focused() == "Key"
    page.keys("wrong\n")
    page.wait_text("#notice", "wants an API key")
    page.wait(lambda: page.find("#ask-dialog").is_displayed())
    page.keys("secret\n")
    page.wait(lambda: page.answers() == ["You said: hello"])
    page.finished()
    assert page.find("#notice").get_attribute("hidden") is not None
    assert page.js("return JSON.stringify({...localStorage})").find("secret") < 0
    page.reload()
    page.wait_text("#notice", "wants an API key")
    page.press("Enter the key", "#notice")
    page.find("#ask-check").click()
    page.find("#ask-input").send_keys("secret\n")
    page.wait(lambda: not page.find("#notice").is_displayed())
    page.reload()
    assert not page.find("#notice").is_displayed()
    page.press("Settings")
    page.press("Forget it", "#settings-dialog")
    assert page.js("return JSON.stringify({...localStorage})").find("secret") < 0


@pytest.mark.parametrize(("kind", "says"), [("busy", "The server is busy"), ("loading", "The server is getting ready")])
def test_a_busy_server_is_asked_again(page: Page, kind: str, says: str) -> None:
    setattr(page.plan, kind, 2)
    page.write("hello\n")
    page.wait_text(".remark", says)
    page.finished()
    assert page.answers() == ["You said: hello"]
    assert len(page.plan.bodies) == 3


def test_waiting_for_a_busy_server_can_be_stopped(page: Page) -> None:
    page.plan.busy = 1000
    page.write("hello\n")
    page.wait_text(".remark", "The server is busy")
    page.keys("\ue00c")
    page.finished()
    page.wait_text(".remark", "Stopped.")


def test_a_refusal_is_told(page: Page) -> None:
    page.plan.refuse = "the prompt has 9,000 tokens and the context holds 8,192"
    page.say("hello")
    assert page.texts(".failure-message") == [page.plan.refuse]
    page.plan.refuse = ""
    page.press("Retry")
    page.finished()
    assert page.answers() == ["You said: hello"]
    assert page.all(".versions") == []


@pytest.mark.parametrize(("way", "says"), [("cut_after", "before it was"), ("fail_after", "the model stumbled")])
def test_what_came_of_a_broken_answer_is_kept(page: Page, way: str, says: str) -> None:
    setattr(page.plan, way, 2)
    page.say("hello there")
    assert page.answers() == ["You said:"]
    assert says in page.texts(".failure-message")[0]
    setattr(page.plan, way, None)
    page.press("Retry")
    page.finished()
    assert page.answers() == ["You said: hello there"]


def test_a_server_that_is_gone(page: Page) -> None:
    page.say("hello")
    port = page.server.server_address[1]
    page.server.stop()
    page.say("are you there?")
    assert page.texts(".failure-message") == ["The server does not answer."]
    page.wait_text("#notice", "The server does not answer.")
    assert page.texts(".said") == ["hello", "are you there?"]
    page.press("Retry", "#notice")
    page.wait_text("#notice", "The server does not answer.")
    page.server = FakeServer(page.plan, port)
    page.press("Retry", ".failure")
    page.finished()
    assert page.answers() == ["You said: hello", "You said: are you there?"]
    page.wait(lambda: not page.find("#notice").is_displayed())
