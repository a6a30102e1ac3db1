"""The label page in a real browser: keys alone, two people at once, a reload, hostile texts, a training."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from studio.shop import PASSWORD, Shop
from tastemaker.feedback.exporting import ExportOptions, export
from tastemaker.feedback.items import Written, add_item, person_named
from tastemaker.feedback.judging import suggest
from tastemaker.feedback.projects import KINDS, ProjectSettings, create_project
from tastemaker.feedback.tables import Item, Judgement, Person
from tastemaker.runs import Run, Source, sha256_file
from tastemaker.types import Message

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
uvicorn = pytest.importorskip("uvicorn")
CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed to label with")
PATIENCE = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def address(shop: Shop) -> Iterator[str]:
    """The studio of `shop`, served."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(shop.app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


class Seat:
    """One person at one browser."""

    def __init__(self, browser: Any, address: str, name: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.troubles: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("console", self._console)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("dialog", lambda dialog: self.troubles.append(f"dialog {dialog.message}"))
        self.page.goto(f"{address}/login")
        self.page.fill("[name=name]", name)
        self.page.fill("[name=password]", PASSWORD)
        self.page.keyboard.press("Enter")
        self.page.wait_for_url(f"{address}/")

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.troubles.append(message.text)

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.ready()

    def ready(self) -> None:
        self.page.wait_for_selector("#item:not([aria-busy])")

    def answer(self, *keys: str) -> str:
        """Presses keys and Enter; waits for the next item. What was shown."""
        shown = self.page.inner_text("#prompt")
        for key in keys:
            self.page.keyboard.press(key)
        self.page.keyboard.press("Enter")
        self.page.wait_for_function("text => document.getElementById('prompt').innerText !== text", arg=shown)
        return shown


def stored(shop: Shop, name: str) -> list[Judgement]:
    with shop.store.reading() as session:
        wanted = select(Judgement).join(Person).where(Person.name == name).order_by(Judgement.id)
        return list(session.scalars(wanted))


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


# ------------------------------------------------------------------------------------- hostile texts

PAYLOADS = (
    "<script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 1'>",
    "<svg onload='window.hit = 1'>",
    "<svg><script>window.hit = 1</script></svg>",
    "<iframe src='javascript:parent.hit = 1'></iframe>",
    "<body onload='window.hit = 1'>",
    "<a href='javascript:window.hit = 1'>press</a>",
    "[press](javascript:window.hit=1)",
    "[press](data:text/html,<script>window.hit=1</script>)",
    "[press](https://evil.example/' onmouseover='window.hit=1)",
    "![picture](https://evil.example/x.png)",
    "![x](x' onerror='window.hit=1)",
    "<https://evil.example/auto>",
    "<style>* { display: none }</style>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href=https://evil.example/>",
    "<form action=https://evil.example><button>press</button></form>",
    "<input autofocus onfocus='window.hit = 1'>",
    "<details open ontoggle='window.hit = 1'>",
    "<video><source onerror='window.hit = 1'></video>",
    "<math><mtext><table><mglyph><style><img src=x onerror=window.hit=1>",
    "<template><script>window.hit = 1</script></template>",
    "</textarea><script>window.hit = 1</script>",
    "</title><script>window.hit = 1</script>",
    "--><script>window.hit = 1</script>",
    "`<img src=x onerror=window.hit=1>`",
    "```html\n<script>window.hit = 1</script>\n```",
    "{{constructor.constructor('window.hit = 1')()}} ${window.hit = 1}",
    "\u202egnp.exe\u202c \u200bzero\u200b width <script>window.hit = 1</script>",
    "&lt;script&gt;window.hit = 1&lt;/script&gt; &#60;img src=x onerror=window.hit=1&#62;",
    "<object data='javascript:window.hit = 1'></object><embed src='javascript:window.hit = 1'>",
)


def test_hostile_texts_stay_texts(shop: Shop, browser: Any, address: str) -> None:
    assert len(PAYLOADS) >= 30
    settings = ProjectSettings(suggestions="before", labels=("<b>wrong</b>",), question=PAYLOADS[1])
    with shop.store.writing() as writer:
        project = create_project(writer, "taste", settings, "\n\n".join(PAYLOADS))
        for i, text in enumerate(PAYLOADS):
            prompt = (Message("user", text), Message("assistant", text), Message("<b>odd</b>", text))
            sides = [Written(content=text), Written(content=f"{i} {text}", origin=text)]
            add_item(writer, project, settings, prompt, sides, name=text)
    seat = Seat(browser, address, "admin")
    seat.open(f"{address}/label/taste")
    page = seat.page
    for text in PAYLOADS:
        seat.ready()
        for selector in ("#prompt .turn .text", ".response .text"):
            shown = page.locator(selector).first.inner_text()
            plain = text.replace("```html\n", "").replace("\n```", "").replace("`", "")
            if not text.startswith(("\u202e", "[")):  # control characters and links are shown in words
                assert shown.strip() in (plain, f"{PAYLOADS.index(text)} {plain}")
        assert (
            page.locator("#item :is(script, img, iframe, svg, object, embed, style, link, meta, base)").count()
            == 0
        )
        for href in page.eval_on_selector_all("#item a", "all => all.map(a => a.href)"):
            assert href.startswith("https://") and not text.startswith(("[press](java", "[press](data"))
        if "\u202e" in text:
            assert "U+202E" in page.inner_text("#prompt") and "U+200B" in page.inner_text("#prompt")
        page.keyboard.press("g")
        page.keyboard.press("Escape")
        seat.answer("1") if text != PAYLOADS[-1] else page.keyboard.press("m")
    for url in ("/project/taste", "/", "/people", "/compare", "/train", "/runs"):
        page.goto(f"{address}{url}")
        page.wait_for_timeout(300)
    assert page.evaluate("window.hit") is None
    assert seat.troubles == []
    assert all(url.startswith((address, "data:")) for url in seat.asked)


# --------------------------------------------------------------------------------------------- looks


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_are_named_and_can_be_read(
    shop: Shop, browser: Any, address: str, width: int, scheme: str, tmp_path: Path
) -> None:
    for kind in KINDS:
        shop.project(kind, ProjectSettings(kind=kind, axes=("helpful", "honest"), overlap=4), n=1)
    kinds = [f"label/{kind}" for kind in KINDS]
    seat = Seat(
        browser,
        address,
        "admin",
        viewport={"width": width, "height": 860},
        color_scheme=scheme,
        has_touch=width < 600,
    )
    out = Path(os.environ["STUDIO_SHOTS"]) if "STUDIO_SHOTS" in os.environ else tmp_path
    for name in ("", *kinds, "project/pair", "compare", "train", "runs", "people"):
        seat.page.goto(f"{address}/{name}")
        seat.page.wait_for_function("() => !document.querySelector('[aria-busy]')")
        assert seat.page.evaluate("document.documentElement.scrollWidth") == width, name
        assert seat.page.evaluate(UNNAMED) == [], name
        assert json.loads(seat.page.evaluate(FAINT)) == [], name
        assert seat.page.locator("h1").count() == 1
        seat.page.screenshot(
            path=out / f"{name.replace('/', '-') or 'home'}-{scheme}-{width}.png", full_page=True
        )
    assert seat.troubles == []


UNNAMED = """[...document.querySelectorAll('input, select, textarea, button, a')]
  .filter(e => !(e.textContent.trim() || e.ariaLabel || e.getAttribute('aria-labelledby') || e.labels?.length))
  .map(e => e.outerHTML)"""
"""What a person who hears the page could not tell apart."""
FAINT = """(() => {
  const rgb = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const under = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
  const found = [];
  for (const e of document.querySelectorAll('main *, header *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !e.offsetParent || e.closest('kbd')) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(under(e))];
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (contrast < 4.5 && !e.disabled) found.push([e.outerHTML.slice(0, 80), contrast]);
  }
  return JSON.stringify(found);
})()"""
"""Texts whose contrast is below WCAG's 4.5."""


def test_counts(shop: Shop) -> None:
    with shop.store.reading() as session:
        assert session.scalar(select(func.count()).select_from(Judgement)) == 0
