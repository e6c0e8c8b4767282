"""The page in a headless Chromium, in both languages, by keyboard, and as wide as a phone."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import chromium, needs_chromium, pages, shot
from servers import running, until

from weft.server.engine import EngineOptions

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def site(checkpoint, long_checkpoint) -> Iterator[Any]:
    options = {
        "small": EngineOptions(str(checkpoint), "float32", max_sequences=4),
        "长模型": EngineOptions(str(long_checkpoint), "float32", max_sequences=4),
    }
    with running(options) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def open_page(browser, site) -> Iterator[Any]:
    def prepare(context: Any) -> None:
        context.route(re.compile("/v1/.*completions"), _endless)

    with pages(browser, prepare) as start:

        def opened(address: str = site.address, locked: bool = False, **how: Any) -> Any:
            return start(address, "#key-dialog[open]" if locked else "#models input", **how)

        yield opened


def _endless(route: Any) -> None:
    """Random models end their answers at random; these go on."""
    route.continue_(post_data=json.dumps({**json.loads(route.request.post_data), "ignore_eos": True}))


def idle(page: Any) -> None:
    page.wait_for_selector("#stop", state="hidden")
    page.wait_for_selector(".writing", state="detached")


def refuse(page: Any, on: bool) -> None:
    """Whether every question is answered with a 429 from now on."""
    said = json.dumps({"error": {"message": "The queue is full.", "param": None}})
    full = {"status": 429, "content_type": "application/json", "body": said}
    page.unroute("**/v1/**completions")
    if on:
        page.route("**/v1/**completions", lambda route: route.fulfill(**full))


def told(page: Any, start: str) -> None:
    until(lambda: page.wait_for_timeout(20) or page.inner_text("#status").startswith(start))


# Answers come when a test says so: feed(text) is one event, of three tokens.
FED = """
const real = window.fetch;
window.fetch = async (address, how) => {
  if (!String(address).endsWith("completions")) return real(address, how);
  window.asked = JSON.parse(how.body);
  let tokens = 0;
  return new Response(new ReadableStream({
    start(stream) {
      const send = (event) => stream.enqueue(new TextEncoder().encode(`data: ${event}\\n\\n`));
      window.feed = (text, end) => {
        tokens += 3;
        const choice = { text, logprobs: null, finish_reason: end ? "stop" : null };
        send(JSON.stringify({ choices: [choice], usage: { completion_tokens: tokens } }));
        if (end) send("[DONE]");
      };
      how.signal.addEventListener("abort", () => stream.error(how.signal.reason));
    },
  }));
};
"""


COMPOSED_ESCAPE = """(element) => element.dispatchEvent(
    new KeyboardEvent("keydown", { key: "Escape", isComposing: true, bubbles: true, cancelable: true }))"""


# As Safari tells the Enter that takes what an input method offers: the composition is over by then.
CONFIRMING_ENTER = """(element) => element.dispatchEvent(
    new KeyboardEvent("keydown", { key: "Enter", keyCode: 229, bubbles: true, cancelable: true }))"""


AT_END = "(place) => place.scrollHeight - place.scrollTop - place.clientHeight < 2 && place.scrollTop > 0"


def feed(page: Any, text: str, end: bool = False) -> None:
    page.wait_for_function("Boolean(window.feed)")
    page.evaluate("([text, end]) => feed(text, end)", [text, end])


def talk(page: Any, *texts: str) -> list[str]:
    """A conversation with an answer to each of ``texts``; what is shown of it."""
    page.click("#mode-chat")
    page.fill("#max_tokens", "4")
    # Drawn anew each time, four tokens are now and then no text at all.
    page.fill("#seed", "1")
    for text in texts:
        page.fill("#input", text)
        page.press("#input", "Enter")
        page.wait_for_selector(f".turn.user:has-text('{text.split()[0]}') + .turn.assistant .tools")
    idle(page)
    return shown(page)


def shown(page: Any) -> list[str]:
    return page.locator(".turn .said").all_text_contents()


def test_a_conversation_is_streamed_edited_and_asked_again(open_page):
    page = open_page()
    page.click("#mode-chat")
    page.fill("#max_tokens", "30")
    page.fill("#system", "Be brief.")
    page.fill("#input", "Hello")
    page.press("#input", "Enter")
    page.wait_for_selector(".turn.assistant .said")
    idle(page)
    assert page.locator(".turn").count() == 2
    assert "tokens/s" in page.inner_text("#status")
    first = page.locator(".turn.assistant .said").inner_text()
    page.keyboard.press("Alt+KeyR")
    idle(page)
    assert page.locator(".turn").count() == 2
    assert page.locator(".turn.assistant .said").inner_text() != first
    shot(page, "chat-en")
    # The arrow edits the last message; the answer after it goes.
    page.focus("#input")
    page.keyboard.press("ArrowUp")
    page.fill(".turn.user textarea", "Goodbye")
    page.keyboard.press("Enter")
    idle(page)
    assert page.locator(".turn.user .said").inner_text() == "Goodbye"
    assert page.locator(".turn").count() == 2
    with page.expect_download() as got:
        page.click("#export-json")
    saved = json.loads(Path(got.value.path()).read_text())
    assert saved["conversation"][0] == {"role": "user", "content": "Goodbye"}
    assert saved["system"] == "Be brief." and saved["models"] == ["small"]
    page.click("#mode-completion")
    with page.expect_download() as got:
        page.click("#export-json")
    assert json.loads(Path(got.value.path()).read_text())["conversation"] == []


def test_a_conversation_stays_where_no_model_answers(open_page):
    page = open_page()
    before = talk(page, "one", "two", "three")
    assert len(before) == 6
    refuse(page, True)
    page.click("#again")
    told(page, "The queue is full.")
    assert shown(page) == before and page.input_value("#input") == ""
    page.click(".turn.user .tools button >> nth=0")
    page.fill(".turn.user textarea", "ONE")
    page.click(".turn.user:nth-child(3) .tools button >> nth=0")
    page.fill(".turn.user:nth-child(3) textarea", "TWO")
    edits = page.locator(".turn.user textarea")
    edits.nth(0).press("Enter")
    page.wait_for_selector(".turn.user:nth-child(5)")
    assert [edits.nth(place).input_value() for place in range(2)] == ["ONE", "TWO"]
    for place in (1, 0):
        edits.nth(place).press("Escape")
    assert shown(page) == before
    page.fill("#input", "four")
    page.press("#input", "Enter")
    until(lambda: page.wait_for_timeout(20) or page.input_value("#input") == "four")
    assert shown(page) == before
    refuse(page, False)
    page.press("#input", "Enter")
    page.wait_for_selector(".turn.user:has-text('four') + .turn.assistant .tools")
    assert shown(page)[:6] == before


def test_without_a_chosen_model_nothing_is_cut(open_page):
    page = open_page()
    before = talk(page, "one", "two")
    page.uncheck("#models input[value='small']")
    page.keyboard.press("Alt+KeyR")
    told(page, "Choose a model first.")
    page.click(".turn.user .tools button >> nth=0")
    page.fill(".turn.user textarea", "ONE")
    page.press(".turn.user textarea", "Enter")
    assert page.input_value(".turn.user textarea") == "ONE"
    page.check("#models input[value='small']")
    page.fill(".turn.user textarea", "")
    page.press(".turn.user textarea", "Enter")
    page.press(".turn.user textarea", "Escape")
    assert shown(page) == before


def test_a_continuation_stays_where_no_model_answers(open_page):
    page = open_page()
    page.fill("#max_tokens", "4")
    page.fill("#seed", "1")
    page.fill("#input", "def")
    page.click("#send")
    until(lambda: page.wait_for_timeout(20) or len(page.input_value("#input")) > 3)
    before = page.input_value("#input")
    page.uncheck("#models input[value='small']")
    page.keyboard.press("Alt+KeyR")
    told(page, "Choose a model first.")
    page.check("#models input[value='small']")
    refuse(page, True)
    page.keyboard.press("Alt+KeyR")
    told(page, "The queue is full.")
    assert page.locator(".text").text_content() == page.input_value("#input") == before


def test_conversations_and_continuations_outlast_a_look_at_the_others(open_page):
    page = open_page()
    page.fill("#max_tokens", "4")
    page.fill("#seed", "1")
    page.fill("#input", "def")
    page.click("#send")
    until(lambda: page.wait_for_timeout(20) or len(page.input_value("#input")) > 3)
    continued = page.input_value("#input")
    before = talk(page, "one", "two")
    page.click("#mode-completion")
    assert page.locator(".text").text_content() == continued and page.is_visible("#again")
    page.click("#mode-chat")
    assert shown(page) == before and page.locator(".text").count() == 0
    page.click("#clear")
    assert page.locator(".turn").count() == 0 and not page.is_visible("#again")
    page.click("#mode-completion")
    assert page.locator(".text").text_content() == continued


def test_a_reload_keeps_the_conversation_of_its_tab(open_page):
    page = open_page()
    page.check("#models input[value='长模型']")
    page.click("#mode-chat")
    page.fill("#system", "简短")
    before = talk(page, "你好", "again")
    assert len(before) == 6

    def reload() -> None:
        page.reload()
        page.wait_for_selector("#models input")

    reload()
    assert shown(page) == before
    assert page.input_value("#system") == "简短" and page.input_value("#input") == ""
    with page.expect_request("**/v1/chat/completions") as asked:
        assert talk(page, "third")[:6] == before
    roles = [message["role"] for message in json.loads(asked.value.post_data)["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
    # A question without its answer is there to be asked again.
    page.fill("#max_tokens", "7000")
    page.check("#models input[value='长模型']")
    page.fill("#input", "fourth")
    page.press("#input", "Enter")
    page.wait_for_selector(".writing")
    reload()
    assert page.input_value("#input") == "fourth" and page.locator(".turn").count() == 6
    page.fill("#input", "")
    page.click("#mode-completion")
    page.click("#mode-chat")
    assert page.input_value("#input") == ""
    page.click("#clear")
    reload()
    assert page.locator(".turn").count() == 0
    assert page.input_value("#system") == "简短"


def test_of_several_models_each_fails_alone(open_page):
    page = open_page()
    page.check("#models input[value='长模型']")
    asked: list[Any] = []

    def fail(route: Any) -> None:
        body = json.loads(route.request.post_data)
        asked.append(body)
        route.fallback() if body["model"] == "small" else route.abort()

    page.route("**/v1/chat/completions", fail)
    (question, answer) = talk(page, "one")
    told(page, "长模型: The connection was lost.")
    talk(page, "two")
    messages = next(body["messages"] for body in asked[2:] if body["model"] == "长模型")
    assert [said["content"] for said in messages] == [question, answer, "two"]


def test_chinese_and_two_models_side_by_side(open_page):
    page = open_page(locale="zh-CN")
    assert page.inner_text("#send") == "发送"
    page.click("#mode-chat")
    page.check("#models input[value='长模型']")
    page.fill("#max_tokens", "25")
    page.fill("#input", "今天天气怎么样？")
    page.click("#send")
    page.wait_for_selector(".columns .column:nth-child(2)")
    idle(page)
    names = page.locator(".turn.assistant .column .who").all_inner_texts()
    assert names == ["small", "长模型"]
    assert all(text for text in page.locator(".turn.assistant .said").all_inner_texts())
    shot(page, "side-by-side-zh")
    page.click("#language")
    assert page.inner_text("#send") == "Send"


def test_without_models_of_tasks_there_is_no_view_of_them(open_page):
    page = open_page()
    assert page.is_visible("#mode-chat") and not page.is_visible("#mode-tasks")


def test_stopping_a_long_answer(open_page, site):
    page = open_page()
    page.check("#models input[value='长模型']")
    page.uncheck("#models input[value='small']")
    page.fill("#max_tokens", "7000")
    page.fill("#input", "def f():\n")
    began = time.monotonic()
    page.press("#input", "Control+Enter")
    until(lambda: page.wait_for_timeout(20) or len(page.locator(".new").text_content()) > 20)

    def is_measured() -> bool:
        """Without a clock it would be a thousand times that, and stay so."""
        found = re.match(r"(\d+) tokens, ([\d.]+) tokens/s", page.inner_text("#status"))
        return found is not None and float(found[2]) < 30 * float(found[1]) / (time.monotonic() - began)

    # A model that is loaded first, or a busy machine, makes the beginning of an answer late.
    until(lambda: page.wait_for_timeout(20) or is_measured())
    page.keyboard.press("Escape")
    idle(page)
    assert page.inner_text("#status").startswith("Stopped")


def test_tokens_are_counted_by_the_server(open_page):
    page = open_page()
    page.evaluate(FED)
    page.fill("#input", "def")
    page.click("#send")
    feed(page, " one")
    told(page, "3 tokens")
    feed(page, " two")
    told(page, "6 tokens")
    assert page.evaluate("asked.stream_options.continuous_usage_stats")
    page.keyboard.press("Escape")
    told(page, "Stopped · 6 tokens")


def test_what_came_is_told_however_little_it_is(open_page):
    page = open_page()
    page.fill("#max_tokens", "1")
    page.fill("#input", "def")
    page.click("#send")
    told(page, "1 token · ")
    assert page.inner_text("#status").endswith("length reached")
    page.evaluate(FED)
    page.fill("#input", "def")
    page.click("#send")
    feed(page, " one")
    page.wait_for_selector(".new:has-text('one')")
    page.keyboard.press("Escape")
    idle(page)
    assert page.inner_text("#status") == "Stopped · 3 tokens"


def test_a_fast_answer_is_followed_without_a_layout_for_every_event(open_page):
    page = open_page()
    page.evaluate(FED)
    page.fill("#input", "def")
    page.click("#send")
    feed(page, " one")
    page.evaluate("""() => {
        const place = document.getElementById("transcript");
        const { get } = Object.getOwnPropertyDescriptor(Element.prototype, "scrollHeight");
        window.measured = 0;
        Object.defineProperty(place, "scrollHeight", { get() { measured += 1; return get.call(place); } });
        for (let line = 0; line < 400; line += 1) feed("\\n");
    }""")
    feed(page, " two", end=True)
    told(page, "1206 tokens")
    assert page.evaluate("measured") < 400
    until(lambda: page.wait_for_timeout(20) or page.locator("#transcript").evaluate(AT_END))


def test_a_continuation_is_in_sight_behind_a_long_text(open_page):
    page = open_page()
    page.evaluate(FED)
    page.fill("#input", "A line of a story.\n" * 100)
    page.click("#send")
    feed(page, "And one\n" * 3)
    feed(page, "more.", end=True)
    told(page, "6 tokens")
    until(lambda: page.wait_for_timeout(20) or page.locator("#transcript").evaluate(AT_END))


def test_an_answer_is_followed_from_its_beginning(open_page):
    page = open_page()
    # What stands below the place of an answer is taller then.
    page.evaluate("document.body.style.fontSize = '17px'")
    page.evaluate(FED)
    page.click("#mode-chat")
    page.fill("#input", "A line of a question.\n" * 100)
    page.press("#input", "Enter")
    feed(page, "lines\n" * 100)
    until(lambda: page.wait_for_timeout(20) or page.locator("#transcript").evaluate(AT_END))


def test_an_empty_answer_is_an_answer(open_page):
    page = open_page(locale="zh-CN")
    page.evaluate(FED)
    page.click("#mode-chat")
    page.fill("#input", "one")
    page.press("#input", "Enter")
    feed(page, "", end=True)
    told(page, "3 个词元 · ")
    assert shown(page) == ["one", "（空）"]


def test_probabilities_of_tokens(open_page, site):
    if "logprobs" not in site.engine("small").facts["supported"]:
        pytest.skip("the engine has no log probabilities yet")
    page = open_page()
    page.check("#probabilities")
    page.fill("#max_tokens", "12")
    page.fill("#temperature", "0")
    page.fill("#input", "今天")
    page.click("#send")
    idle(page)
    tokens = page.locator(".token")
    assert tokens.count() >= 4
    assert "".join(tokens.all_text_contents()) == page.locator(".new").text_content()
    tokens.nth(1).hover()
    rows = page.locator("#bubble .row")
    assert rows.count() >= 5
    assert "%" in rows.nth(0).inner_text()
    shot(page, "probabilities")
    tokens.nth(2).focus()
    assert page.locator("#bubble").is_visible()


@pytest.mark.parametrize(
    ("text", "tokens", "marked"),
    [
        ("r", ["red"], 0),
        (" the cat the", ["the", "cat", "the"], 0),
        ("\ufeffab", ["\ufeff", "a", "b"], 3),
        ("bytes: é", ["bytes:", " ", r"bytes:\xc3", r"bytes:\xa9"], 3),
    ],
)
def test_all_of_the_text_is_shown_whatever_its_tokens_are(open_page, text, tokens, marked):
    script = """async ([text, tokens]) => {
        const { Writer, recordsOf } = await import("/page/tokens.js");
        const place = document.createElement("p");
        const writer = new Writer(place);
        writer.add(text, recordsOf({ tokens, token_logprobs: tokens.map(() => -1), top_logprobs: null }));
        writer.end();
        return [place.textContent, place.children.length];
    }"""
    assert open_page().evaluate(script, [text, tokens]) == [text, marked]


def test_a_character_that_begins_in_a_token_with_others_keeps_its_probabilities(open_page):
    """Where what ends it comes late, held back for a stop text, or behind a token that has no text."""
    script = """async (given) => {
        const { Writer, recordsOf } = await import("/page/tokens.js");
        const place = document.createElement("p");
        const writer = new Writer(place);
        for (const [text, token] of given) {
            writer.add(text, recordsOf({ tokens: [token], token_logprobs: [-1], top_logprobs: null }));
        }
        writer.end();
        return [...place.children].map((each) => each.textContent);
    }"""
    begun, ended = r"bytes:\xe6\x88\x91\xe4\xbd", r"bytes:\xa0"
    page = open_page()
    held = [["我", begun], ["", ended], ["你好", "好"]]
    assert page.evaluate(script, held) == ["我", "你", "好"]
    special = [["我", begun], ["", "<|end|>"], ["你", ended], ["好", "好"]]
    assert page.evaluate(script, special) == ["我", "你", "好"]


def test_alternatives_stand_in_the_order_of_their_probabilities(open_page):
    script = """async () => {
        const { recordsOf } = await import("/page/tokens.js");
        const tops = JSON.parse('{"x": -1, "7": -2, "y": -3, "1": -4}');
        const [record] = recordsOf({ tokens: ["y"], token_logprobs: [-3], top_logprobs: [tops] });
        return record.top_logprobs.map((each) => each.token);
    }"""
    assert open_page().evaluate(script) == ["x", "7", "y", "1"]


@pytest.mark.parametrize("probabilities", [False, True])
def test_what_a_stop_text_leaves_of_the_first_token_is_shown(open_page, site, probabilities):
    (*_, token) = site.post("/tokenize", {"model": "small", "prompt": "print"}).json()["tokens"]
    text = site.post("/detokenize", {"model": "small", "tokens": [token]}).json()["prompt"]
    assert len(text) > 1
    page = open_page()

    def only(route: Any) -> None:
        body = json.loads(route.request.post_data)
        route.continue_(post_data=json.dumps({**body, "logit_bias": {str(token): 100}}))

    page.route("**/v1/**completions", only)
    page.set_checked("#probabilities", probabilities)
    page.fill("#stop_text", text[1:])
    page.fill("#input", "def")
    page.click("#send")
    page.wait_for_selector(".new:not(.writing)", state="attached")
    idle(page)
    assert page.locator(".new").text_content() == text[0]


def test_models_that_are_not_chosen_leave_the_length_alone(open_page):
    page = open_page()
    assert page.input_value("#max_tokens") == "64"
    page.check("#models input[value='长模型']")
    page.uncheck("#models input[value='small']")
    page.fill("#max_tokens", "300")
    page.evaluate(FED)
    page.evaluate("document.querySelector('#models input').id = 'before'")
    page.fill("#input", "def")
    page.click("#send")
    feed(page, " one", end=True)
    page.wait_for_selector("#before", state="detached")
    assert page.input_value("#max_tokens") == "300"


def test_input_methods_and_languages_leave_edits_and_answers_alone(open_page):
    page = open_page()
    talk(page, "one")
    page.click(".turn.user .tools button >> nth=0")
    page.fill(".turn.user textarea", "今天")
    page.locator(".turn.user textarea").evaluate(COMPOSED_ESCAPE)
    page.click("#language")
    assert page.input_value(".turn.user textarea") == "今天"
    assert page.locator(".turn.user .tools button").all_inner_texts() == ["重新发送", "取消"]
    page.evaluate(FED)
    page.press(".turn.user textarea", "Enter")
    page.wait_for_selector(".writing", state="attached")
    page.locator("#input").evaluate(COMPOSED_ESCAPE)
    feed(page, "好", end=True)
    told(page, "3 个词元 · ")
    page.locator(".turn.user textarea").wait_for(state="detached")
    assert page.locator(".turn.user .said").text_content() == "今天"


def test_confirming_what_an_input_method_offers_sends_nothing(open_page):
    page = open_page(locale="zh-CN")
    (question, answer) = talk(page, "one")
    page.fill("#input", "nihao")
    page.locator("#input").evaluate(CONFIRMING_ENTER)
    page.click(".turn.user .tools button >> nth=0")
    page.fill(".turn.user textarea", "jintian")
    page.locator(".turn.user textarea").evaluate(CONFIRMING_ENTER)
    assert page.input_value("#input") == "nihao" and page.input_value(".turn.user textarea") == "jintian"
    page.press(".turn.user textarea", "Escape")
    assert shown(page) == [question, answer]


def test_what_is_written_during_an_answer_stays(open_page):
    page = open_page()
    page.evaluate(FED)
    page.fill("#input", "def")
    page.click("#send")
    feed(page, " one")
    page.fill("#input", "my next text")
    feed(page, " two", end=True)
    told(page, "6 tokens")
    idle(page)
    assert page.input_value("#input") == "my next text"
    assert page.locator(".text").text_content() == "def one two"
    page.fill("#input", "def")
    for last in ("one", "two"):
        page.evaluate("window.feed = null")
        page.keyboard.press("Alt+KeyR") if last == "two" else page.click("#send")
        feed(page, last, end=True)
        until(lambda last=last: page.wait_for_timeout(20) or page.input_value("#input") == f"def{last}")


def test_the_end_of_an_answer_leaves_writing_and_reading_where_they_are(open_page):
    page = open_page()
    talk(page, "one")
    page.evaluate(FED)

    def ask(text: str) -> None:
        page.evaluate("window.feed = null")
        page.fill("#input", text)
        page.press("#input", "Enter")

    ask("two")
    page.fill("#system", "Be ")
    feed(page, "lines\n" * 100, end=True)
    page.wait_for_selector(".turn:nth-child(4) .tools")
    page.keyboard.type("brief.")
    assert page.input_value("#system") == "Be brief." and page.input_value("#input") == ""
    page.click(".turn.user .tools button >> nth=0")
    ask("three")
    page.focus(".turn.user textarea")
    feed(page, " one", end=True)
    page.wait_for_selector(".turn:nth-child(6) .tools")
    page.keyboard.type(" more")
    assert page.input_value(".turn.user textarea") == "one more" and page.input_value("#input") == ""
    page.press(".turn.user textarea", "Escape")
    ask("four")
    transcript = page.locator("#transcript")
    feed(page, "lines\n" * 100)
    until(lambda: page.wait_for_timeout(20) or transcript.evaluate(AT_END))
    transcript.evaluate("(place) => { place.scrollTop = 200; }")
    feed(page, "end", end=True)
    page.wait_for_selector(".turn:nth-child(8) .tools")
    assert transcript.evaluate("(place) => place.scrollTop") == 200


def test_a_number_that_cannot_be_read_is_said(open_page):
    page = open_page(locale="zh-CN")
    page.fill("#temperature", "")
    page.locator("#temperature").press_sequentially("1e")
    page.fill("#input", "def")
    page.click("#send")
    assert page.inner_text("#status") == "“温度（0 为最可能）”应为数字，例如 0.5。"
    assert page.locator(".new").count() == 0


def test_copying_where_pages_have_no_clipboard(open_page):
    """As over HTTP from another machine."""
    page = open_page()
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    (question, _) = talk(page, "今天\n one")
    page.click(".turn.user .tools button >> nth=1")
    assert page.inner_text(".turn.user .tools button >> nth=1") == "Copied"
    page.focus("#input")
    page.keyboard.press("Control+KeyV")
    assert page.input_value("#input") == question == "今天\n one"


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_a_phone_needs_no_sideways_scrolling(open_page, locale):
    page = open_page(width=360, height=740, locale=locale)
    page.click("#mode-chat")
    page.fill("#input", "你好")
    page.press("#input", "Enter")
    idle(page)
    shot(page, f"phone-{locale}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.click("#settings summary")
    shot(page, f"phone-settings-{locale}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for name in ("#send", "#language"):
        box = page.locator(name).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360


def test_a_key_is_asked_for(open_page, checkpoint, tmp_path):
    from weft.server.keys import Keys
    from weft.server.store import Store

    keys = Keys(Store(str(tmp_path / "weft.db")))
    _, text = keys.add("page")
    with running({"tiny": EngineOptions(str(checkpoint), "float32")}, None, keys) as server:
        page = open_page(address=server.address, locked=True)
        # A key that no request can carry is asked for again.
        page.fill("#key", "weft-…")
        page.click("#key-dialog button")
        told(page, "This API key is not valid here.")
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", f" {text[:9]}\u200b{text[9:]}")
        shot(page, "key")
        page.click("#key-dialog button")
        page.wait_for_selector("#models input", state="attached")
        assert page.evaluate("[...document.styleSheets].every((sheet) => sheet.cssRules.length)")
        page.fill("#input", "a")
        page.click("#send")
        idle(page)
        assert page.locator(".new").text_content() or page.inner_text("#status")
        page.add_init_script(
            "Object.defineProperty(window, 'sessionStorage', { get() { throw new Error('forbidden'); } })"
        )
        page.reload()
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", text)
        page.click("#key-dialog button")
        page.wait_for_selector("#models input", state="attached")
