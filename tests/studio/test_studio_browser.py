"""The label page in a real browser: keys alone, two people at once, a reload, a training, a label and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import select

from studio.seat import Seat, stored
from studio.shop import Shop
from tastemaker.feedback.exporting import ExportOptions, export
from tastemaker.feedback.items import Written, add_item, person_named
from tastemaker.feedback.judging import suggest
from tastemaker.feedback.projects import ProjectSettings, create_project
from tastemaker.feedback.tables import Item
from tastemaker.runs import Run, Source, sha256_file
from tastemaker.types import Message


def test_two_people_label_twenty_items_by_keyboard_and_dpo_learns_from_them(
    shop: Shop, browser: Any, address: str, tmp_path: Path
) -> None:
    shop.project("taste", ProjectSettings(overlap=2), n=20)
    ann, bob = Seat(browser, address, "annotator"), Seat(browser, address, "reviewer")
    for seat in (ann, bob):
        seat.open(f"{address}/label/taste")
    for n in range(20):
        for seat in (ann, bob):
            good = "secret-good" in seat.page.inner_text(".response:first-child")
            seat.answer("1" if good else "2")
        if n == 9:
            ann.page.keyboard.press("1")
            ann.page.wait_for_timeout(1500)  # half done, kept as a draft
            before = ann.page.inner_text("#prompt")
            ann.page.reload()
            ann.ready()
            assert ann.page.inner_text("#prompt") == before
            assert ann.page.locator(".choice input:checked").count() == 1
    for seat in (ann, bob):
        assert "Nothing is left" in seat.page.inner_text("#question")
        assert seat.troubles == []
    for name in ("annotator", "reviewer"):
        labels = [j for j in stored(shop, name) if j.status == "submitted"]
        assert len({j.item_id for j in labels}) == len(labels) == 20
        assert all(j.verdict == {"preferred": 0} for j in labels), "sides are mapped back to the item's order"
        assert {tuple(j.shown_order) for j in labels} == {(0, 1), (1, 0)}
        assert all(j.seconds > 0 for j in labels)
    path = tmp_path / "data" / "taste.jsonl"
    export(shop.store, "taste", path, ExportOptions())
    from tastemaker.methods import DPO
    from tastemaker.models import tiny_model
    from tastemaker.training import train

    model = tiny_model(["prompt of taste secret good poor 0 1 2 3"], seed=0)
    run = train(
        DPO(), model=model, data=str(path), out=tmp_path / "run", max_steps=2, per_device_train_batch_size=4
    )
    assert run.status == "finished" and run.record.data[0].rows == 40


def test_every_kind_of_question_can_be_answered_by_keyboard(shop: Shop, browser: Any, address: str) -> None:
    keys = {
        "preference": (["2"], {"level": 1}),
        "ranking": (["2", "3", "1"], None),
        "desirable": (["n"], {"desirable": False}),
        "rating": (["4", "2", "5", "1"], None),
        "steps": (["y", "n"], {"labels": [True, False]}),
    }
    seat = Seat(browser, address, "annotator")
    for kind, (pressed, wanted) in keys.items():
        shop.project(kind, ProjectSettings(kind=kind, axes=("helpful", "honest")), n=1)
        seat.open(f"{address}/label/{kind}")
        seat.answer(*pressed)
        said = stored(shop, "annotator")[-1]
        if wanted is not None and kind == "preference":
            wanted = {"level": 1 if said.shown_order == [0, 1] else -1}
        if kind == "ranking":
            ranks = {2: 0, 3: 1, 1: 2}
            wanted = {"ranking": [ranks[said.shown_order.index(k) + 1] for k in range(3)]}
        if kind == "rating":
            both = [{"helpful": 4, "honest": 2}, {"helpful": 5, "honest": 1}]
            wanted = {"ratings": [both[said.shown_order.index(k)] for k in range(2)]}
        assert said.verdict == wanted, kind
    shop.project("spans", ProjectSettings(kind="spans"), n=1)
    seat.open(f"{address}/label/spans")
    seat.page.focus("textarea")
    seat.page.keyboard.press("Control+End")
    for _ in range(len(" here")):
        seat.page.keyboard.press("Shift+ArrowLeft")
    seat.page.keyboard.press("1")
    seat.answer()
    text = "a wrong piece of text \U0001f642 here"
    spans = [{"response": 0, "start": len(text) - 5, "end": len(text), "label": "wrong"}]
    assert stored(shop, "annotator")[-1].verdict == {"spans": spans}, "offsets count characters"
    shop.project("text", ProjectSettings(kind="text"), n=1)
    seat.open(f"{address}/label/text")
    seat.page.fill("#answer textarea", "what should be said")
    seat.page.keyboard.press("Control+Enter")
    seat.page.wait_for_function("() => document.getElementById('question').innerText.startsWith('Nothing')")
    assert stored(shop, "annotator")[-1].verdict == {"text": "what should be said"}
    assert seat.troubles == []


def test_skip_flag_back_and_correction(shop: Shop, browser: Any, address: str) -> None:
    shop.project("taste", ProjectSettings(), n=4)
    seat = Seat(browser, address, "annotator")
    seat.open(f"{address}/label/taste")
    page = seat.page
    first = seat.answer("0")
    page.keyboard.press("b")
    page.wait_for_function("text => document.getElementById('prompt').innerText === text", arg=first)
    seat.answer("x")
    shown = page.inner_text("#prompt")
    page.keyboard.press("s")
    page.wait_for_function("text => document.getElementById('prompt').innerText !== text", arg=shown)
    shown = page.inner_text("#prompt")
    page.keyboard.press("f")
    page.fill("#reason", "holds a name")
    page.click("#flagging button[value=send]")
    page.wait_for_function("text => document.getElementById('prompt').innerText !== text", arg=shown)
    said = [(j.status, j.verdict.get("tie"), j.reason) for j in stored(shop, "annotator")]
    assert said == [
        ("submitted", "equal", ""),
        ("submitted", "both_bad", ""),
        ("skipped", None, ""),
        ("flagged", None, "holds a name"),
    ]
    assert seat.troubles == []


def test_what_an_ai_said_is_shown_marked_once_one_has_answered(shop: Shop, browser: Any, address: str) -> None:
    shop.project("taste", ProjectSettings(suggestions="after"), n=3)
    with shop.store.writing() as writer:
        judge = person_named(writer, "judge", "judge")
        for item in writer.session.scalars(select(Item)):
            suggest(writer, item, judge, {"preferred": 1}, model="a judge", principle="Be kind.")
    seat = Seat(browser, address, "annotator")
    seat.open(f"{address}/label/taste")
    page = seat.page
    assert not page.is_visible("#hints") and "a judge" not in page.content()
    poor_first = "secret-poor" in page.inner_text(".response:first-child")
    seat.answer("1")
    told = page.inner_text("#hints")
    side = "A" if poor_first else "B"
    assert told.startswith("AI a judge (Be kind.) on the item before:") and f": {side} is better" in told
    assert "you: A is better" in told
    page.wait_for_timeout(4500)  # it does not go away while it is read
    assert page.is_visible("#hints")
    page.keyboard.press("s")
    page.wait_for_selector("#hints", state="hidden")
    assert seat.troubles == []


def test_the_choices_stay_in_sight_however_long_the_texts(shop: Shop, browser: Any, address: str) -> None:
    settings = ProjectSettings(kind="preference")
    with shop.store.writing() as writer:
        project = create_project(writer, "taste", settings, "")
        turns = [Message("user" if i % 2 else "assistant", f"turn {i} " * 60) for i in range(9)]
        add_item(writer, project, settings, tuple(turns), [Written(content=f"{s} " * 900) for s in "ab"])
    for width, height in ((390, 760), (1280, 860)):
        seat = Seat(browser, address, "annotator", viewport={"width": width, "height": height})
        seat.open(f"{address}/label/taste")
        assert seat.page.locator("#prompt .turn").count() == 9
        for choice in [*seat.page.locator(".choice").all(), seat.page.locator("#submit")]:
            box = choice.bounding_box()
            assert box["y"] >= 0 and box["y"] + box["height"] <= height and box["height"] >= 24
        dock = seat.page.locator("#foot").bounding_box()
        assert dock["height"] < 0.4 * height, "the texts have most of the page"


def test_lineage_ends_at_single_labels_and_labels_lead_back(
    shop: Shop, browser: Any, address: str, tmp_path: Path
) -> None:
    shop.project("taste", ProjectSettings(), n=1)
    client = shop.client("annotator")
    given = client.post("/api/projects/taste/next").json()
    said = {"key": "k" * 12, "answer": {"preferred": 0}}
    told = client.post(f"/api/assignments/{given['assignment']}/judgements", json=said).json()
    path = tmp_path / "data" / "taste.jsonl"
    export(shop.store, "taste", path, ExportOptions())
    data = [Source(source=str(path), sha256=sha256_file(path), rows=1)]
    Run.create(tmp_path / "runs" / "voted", method="dpo", settings={}, seed=0, data=data)
    seat = Seat(browser, address, "reviewer")
    page = seat.page
    page.goto(f"{address}/runs/voted")
    page.click("#lineage summary")
    page.click(f"#lineage a:text-is('{told['judgement']}')")
    page.wait_for_selector("#traced .response.chosen")
    assert given["responses"][0] in page.inner_text("#traced .response.chosen")
    assert "prompt 0 of taste" in page.inner_text("#traced")
    page.click("#traced a:text-is('voted')")
    page.wait_for_url(f"{address}/runs/voted")
    assert seat.troubles == []


def test_an_answer_is_sent_again_until_it_is_acknowledged(shop: Shop, browser: Any, address: str) -> None:
    shop.project("taste", ProjectSettings(), n=2)
    seat = Seat(browser, address, "annotator")
    seat.open(f"{address}/label/taste")
    failures = iter(["abort", "lose"])

    def fail(route: Any) -> None:
        how = next(failures, "")
        if how == "abort":
            route.abort()
        elif how == "lose":  # it arrives, and its answer is lost on the way back
            route.fetch()
            route.abort()
        else:
            route.continue_()

    seat.page.route("**/judgements", fail)
    seat.answer("1")
    assert len(stored(shop, "annotator")) == 1
