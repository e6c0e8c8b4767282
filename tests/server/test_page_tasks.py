"""The view of tasks in a headless Chromium: what is offered, asked and shown, in both languages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import chromium, needs_chromium, pages, shot
from inline import Inline
from servers import Server, running
from tests import task_models
from tests.task_models import TEXTS

from weft.server.engine import EngineOptions
from weft.server.keys import Keys
from weft.server.store import Store

pytestmark = needs_chromium
TASKS = "#mode-tasks:not([hidden])"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return task_models.made(tmp_path_factory)


def served(folders: dict[str, Path], keys: Keys | None = None) -> Any:
    options = {name: EngineOptions(str(folder)) for name, folder in folders.items()}
    return running(options, keys=keys, backend=Inline)


@pytest.fixture(scope="module")
def site(runs: dict[str, Path], checkpoint: Path) -> Iterator[Server]:
    """A decoder that is not loaded, and a model of each task, of which the first alone is."""
    with served({**runs, "tiny": checkpoint}) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def open_tasks(browser: Any, site: Server) -> Iterator[Any]:
    with pages(browser) as start:

        def opened(task: str, **how: Any) -> Any:
            page = start(site.address, TASKS, **how)
            page.click("#mode-tasks")
            page.click(f"[data-task={task}]")
            return page

        yield opened


def run(page: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Runs the task by keyboard; what was sent, and the results that came."""
    with page.expect_response(re.compile("/v1/(tasks/|rerank)")) as got:
        page.keyboard.press("Control+Enter")
    results = got.value.json()["results"]
    page.wait_for_selector("#results:not(.stale) .result")
    return json.loads(got.value.request.post_data), results


def test_models_that_are_not_loaded_are_offered_too(open_tasks: Any, site: Server) -> None:
    models = {model["id"]: model for model in site.get("/v1/models").json()["data"]}
    assert models["sentiment"]["loaded"] and not models["translation"]["loaded"]
    assert models["translation"]["tasks"] == ["translate"]
    assert models["translation"]["languages"] == ["de", "zh"]
    kinds = [models[name]["kind"] for name in ("tiny", "sentiment", "translation")]
    assert kinds == ["decoder", "encoder", "encoder-decoder"]
    page = open_tasks("classify")
    offered = [button.get_attribute("data-task") for button in page.query_selector_all("#task-choice button")]
    assert offered == [
        "translate", "summarize", "classify", "sentiment", "entities", "roles", "answer", "embed", "rerank",
    ]  # fmt: skip
    page.click("#mode-completion")
    assert page.locator("#models input").evaluate_all("all => all.map((one) => one.value)") == ["tiny"]


def test_labels_with_the_scores_of_all_classes(open_tasks: Any) -> None:
    page = open_tasks("sentiment")
    page.fill("#task-input", f"{TEXTS['sentiment']}\n\n讨厌 了 😀\n")
    page.check("#task-input-lines")
    sent, results = run(page)
    assert sent == {"model": "sentiment", "input": [TEXTS["sentiment"], "讨厌 了 😀"]}
    cards = page.locator(".result")
    assert cards.count() == 2
    for card, record in zip(cards.all(), results, strict=True):
        assert card.locator(".best strong").inner_text() == record["label"]
        ordered = sorted(record["scores"], key=lambda name: -record["scores"][name])
        assert card.locator(".bars .name").all_inner_texts() == ordered
        widths = card.locator(".bars i").evaluate_all("all => all.map((one) => parseFloat(one.style.width))")
        assert widths == pytest.approx([100 * record["scores"][name] for name in ordered], abs=0.01)
    # What is nearly all or nearly nothing is not shown as if it were.
    assert "100 %" not in page.inner_text("#results")
    shot(page, "tasks-sentiment")
    with page.expect_download() as got:
        page.click("#export-json")
    assert json.loads(Path(got.value.path()).read_text())["answer"]["results"] == results


def test_pieces_stand_where_they_are_behind_other_planes(open_tasks: Any) -> None:
    text = "😀𠮷 小明 the Rome 了"
    page = open_tasks("entities")
    page.fill("#task-input", text)
    _, results = run(page)
    spans = results[0]["spans"]
    assert "小明" in [span["text"] for span in spans]
    marks = page.locator(".marked mark")
    shown = marks.evaluate_all("all => all.map((one) => [one.firstChild.data, one.lastChild.textContent])")
    assert shown == [[span["text"], span["label"]] for span in spans]
    labels = page.locator(".marked small").evaluate_all("all => all.map((one) => one.remove())")
    assert len(labels) == len(spans) and page.locator(".marked").text_content() == text
    rows = [row.split("\t") for row in page.locator(".result tbody tr").all_inner_texts()]
    assert [row[:3] for row in rows] == [
        [span["label"], span["text"], f"[{span['start']}, {span['end']})"] for span in spans
    ]
    shot(page, "tasks-entities")
    page.fill("#task-input", "\n")
    page.click("#task-run")
    assert page.inner_text("#task-status") == "Text: write something there first."


def test_a_predicate_is_taken_from_the_text(open_tasks: Any) -> None:
    text = "😀小明 喜欢 北京 喜欢"
    page = open_tasks("roles", locale="zh-CN")
    page.fill("#task-input", text)
    page.fill("#task-predicate", "喜欢")
    page.click("#task-run")
    page.wait_for_selector("#task-status.bad")
    assert "occurs more than once" in page.inner_text("#task-status")
    # In UTF-16 the face is two units.
    page.evaluate("document.getElementById('task-input').setSelectionRange(5, 7)")
    page.click("#task-take")
    sent, results = run(page)
    assert sent["predicate"] == {"start": 4, "end": 6}
    assert page.locator("mark.predicate").inner_text() == "喜欢"
    shown = page.locator(".marked mark:not(.predicate)").evaluate_all(
        "all => all.map((one) => one.firstChild.data)"
    )
    # The tokens of one face may each be a piece; its characters are coloured once, and the table has all.
    spans = results[0]["spans"]
    assert shown == list({span["start"]: span["text"] for span in spans}.values()) and "小明" in shown
    assert page.locator(".result tbody tr").count() == len(spans)
    shot(page, "tasks-roles")
    # Another word forgets the place.
    page.fill("#task-predicate", "北京")
    assert run(page)[0]["predicate"] == "北京"


def test_answers_and_none(open_tasks: Any) -> None:
    context = "😀" + TEXTS["context"]
    page = open_tasks("answer", locale="zh-CN")
    page.fill("#task-context", context)
    page.fill("#task-question", "谁在\n在哪")
    page.check("#task-question-lines")
    sent, results = run(page)
    assert sent["question"] == ["谁在", "在哪"] and "least_score" not in sent
    assert [record["text"] for record in results] == ["小明", "上海"]
    assert page.locator(".marked mark").all_inner_texts() == ["小明", "上海"]
    assert page.locator(".marked").all_text_contents() == [context] * 2
    page.fill("#task-least_score", "1")
    assert {record["label"] for record in run(page)[1]} == {"not found"}
    assert page.locator(".missing").all_inner_texts() == ["没有找到"] * 2
    shot(page, "tasks-answer-zh")
    page.click("#language")
    assert page.locator(".missing").all_inner_texts() == ["Not found"] * 2
    assert page.input_value("#task-context") == context and page.is_checked("#task-question-lines")


def test_translations_with_alternatives_and_doubt(open_tasks: Any) -> None:
    page = open_tasks("translate")
    page.fill("#task-input", TEXTS["translation"])
    page.select_option("#task-target_language", "zh")
    page.fill("#task-alternatives", "3")
    page.fill("#task-glossary", "1 = 一\n9 = 九")
    sent, results = run(page)
    assert sent == {
        "model": "translation", "input": TEXTS["translation"], "target_language": "zh", "alternatives": 3,
        "glossary": {"1": "一", "9": "九"},
    }  # fmt: skip
    assert page.locator("p.written").inner_text() == results[0]["text"]
    others = [one["text"] for one in results[0]["alternatives"]]
    assert page.locator(".others .written").all_inner_texts() == others and len(others) == 2
    assert page.locator(".badge").count() == (not results[0]["confident"])
    shot(page, "tasks-translate")
    page.click("[data-task=summarize]")
    assert page.input_value("#task-input") == TEXTS["translation"]
    assert page.locator("#task-target_language").count() == 0 and page.locator(".result").count() == 0
    page.fill("#task-max_length", "513")
    page.focus("#task-input")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#task-status.bad")
    assert "max_length" in page.inner_text("#task-status") and page.locator(".result").count() == 0


def test_a_number_that_cannot_be_read_is_said(open_tasks: Any) -> None:
    page = open_tasks("translate")
    page.fill("#task-input", TEXTS["translation"])
    page.locator("#task-max_length").press_sequentially("1e")
    page.keyboard.press("Control+Enter")
    assert page.inner_text("#task-status") == "Length (tokens): write a number, such as 0.5."
    page.fill("#task-max_length", "5")
    assert run(page)[0]["max_length"] == 5


def test_numbers_between_the_steps_of_a_field_are_sent(open_tasks: Any) -> None:
    page = open_tasks("answer")
    page.fill("#task-context", TEXTS["context"])
    page.fill("#task-question", "谁在")
    page.fill("#task-least_score", "0.33")
    with page.expect_request("**/v1/tasks/answer") as got:
        page.click("#task-run")
    assert json.loads(got.value.post_data)["least_score"] == 0.33
    page.wait_for_selector(".result")
    page.fill("#task-least_score", "2")
    page.click("#task-run")
    page.wait_for_selector("#task-status.bad")
    assert "least_score" in page.inner_text("#task-status")


def test_ranking_and_vectors(open_tasks: Any) -> None:
    page = open_tasks("rerank")
    page.fill("#task-query", "今天")
    page.fill("#task-documents", "the Rome\n今天")
    _, results = run(page)
    assert [one["index"] for one in results] == [1, 0]
    assert page.locator(".bars .name").all_inner_texts() == ["今天", "the Rome"]
    page.click("[data-task=embed]")
    page.fill("#task-input", "今天\n今天\nthe")
    page.check("#task-input-lines")
    _, results = run(page)
    assert f"{len(results[0]['embedding'])} numbers" in page.locator(".note").nth(1).inner_text()
    cells = page.locator(".cosines td").all_inner_texts()
    assert len(cells) == 9 and [cells[n] for n in (0, 1, 4, 8)] == ["1.00"] * 4
    # In UTF-16 the face would be cut in half.
    page.fill("#task-input", f"{'a' * 23}😀 the\n今天")
    run(page)
    assert page.locator(".cosines tr:nth-child(2) th").inner_text() == f"1 {'a' * 23}😀"


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_a_phone_needs_no_sideways_scrolling(open_tasks: Any, locale: str) -> None:
    page = open_tasks("entities", width=360, height=740, locale=locale)
    page.fill("#task-input", f"{TEXTS['entities']} {'x' * 40}")
    run(page)
    shot(page, f"tasks-phone-{locale}")
    for clipped in ("header .switch", ".result table"):
        assert page.locator(clipped).evaluate("one => one.scrollWidth <= one.clientWidth")
    for task in ("entities", "translate", "roles"):
        page.click(f"[data-task={task}]")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        for name in ("#task-run", "#task-input", "#language"):
            box = page.locator(name).bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 360


def test_task_models_alone_open_the_view_behind_a_key(
    browser: Any, runs: dict[str, Path], tmp_path: Path
) -> None:
    keys = Keys(Store(str(tmp_path / "weft.db")))
    _, text = keys.add("page")
    with served({"情感": runs["sentiment"]}, keys) as server, pages(browser) as start:
        page = start(server.address, "#key-dialog[open]")
        page.fill("#key", text)
        page.click("#key-dialog button")
        page.wait_for_selector(TASKS, state="attached")
        assert not page.is_visible("#input") and not page.is_visible("#mode-chat")
        page.fill("#task-input", TEXTS["sentiment"])
        sent, results = run(page)
        assert sent["model"] == "情感" and page.inner_text(".best strong") == results[0]["label"]
