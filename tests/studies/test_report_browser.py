"""The report as a browser shows it: figures drawn, a silent console, no sideways scrolling, samples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from studies.invented import made
from tastemaker.studies.report import write_report

if TYPE_CHECKING:
    from browser import Browser

browsing = pytest.importorskip(
    "browser", reason="a browser is spoken to as POSIX systems do", exc_type=ImportError
)
PROGRAM = browsing.installed()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium is installed, so the page cannot be looked at"
)
SHOWN = "[...document.querySelectorAll('#samples .sample')].filter(e => e.offsetParent).length"
DRAWN = "[...document.querySelectorAll('svg')].filter(e => e.getBoundingClientRect().width > 60).length"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    write_report(out, made(size="full"))
    return out / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert PROGRAM is not None
    with browsing.Browser(PROGRAM) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 900, 390])
def test_page_is_whole_at_every_width(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width=width, dark=dark)
    assert browser.errors == []
    assert browser.requests == [page.resolve().as_uri()]
    assert browser.run("document.documentElement.scrollWidth") == width
    # frontier, differences, FLOPs, DPO's and PPO's courses, the one on purpose, seven training curves
    assert browser.run(DRAWN) == 13
    assert browser.run("document.querySelector('h1').innerText").startswith("DPO comes out ahead")


def test_text_of_figures_can_be_read_on_a_phone(browser: Browser, page: Path) -> None:
    browser.open(page, width=390)
    heights = browser.run(
        "[...document.querySelectorAll('svg text')].filter(e => e.getBoundingClientRect().width)"
        ".map(e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a)"
    )
    assert len(heights) > 50 and min(heights) > 9


def test_colours_follow_the_theme(browser: Browser, page: Path) -> None:
    seen: list[str] = []
    for dark in (False, True):
        browser.open(page, width=1280, dark=dark)
        seen.append(browser.run("getComputedStyle(document.body).backgroundColor"))
        ink = browser.run("getComputedStyle(document.querySelector('#frontier svg text')).fill")
        assert ink != seen[-1]
    assert seen[0] != seen[1]


def test_samples_are_browsed_and_filtered(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    assert browser.run(SHOWN) == 1
    assert browser.run("document.querySelector('.told').textContent") == "1 of 24"
    first = "[...document.querySelectorAll('#samples .sample')].find(e => e.offsetParent).innerText"
    before = browser.run(first)
    assert "sampled" in before and "greedy" not in before
    browser.run("[...document.querySelectorAll('.pager button')][1].click()")
    assert browser.run("document.querySelector('.told').textContent") == "2 of 24"
    assert browser.run(first) != before
    change = "dispatchEvent(new Event('change', {bubbles: true}))"
    browser.run(f"(k => {{ k.value = '2'; k.{change}; }})(document.querySelector('#browse select'))")
    assert browser.run("document.querySelector('.told').textContent") == "1 of 4"
    browser.run("document.querySelector('#browse input[value=greedy]').click()")
    shown = browser.run(first)
    assert "style" in shown and "greedy" in shown and "sampled" not in shown
    browser.run(
        "(b => { b.value = 'Prompt 13 '; b.dispatchEvent(new Event('input')); })"
        "(document.querySelector('#browse input[type=search]'))"
    )
    assert browser.run("document.querySelector('.told').textContent") == "1 of 1"
    assert "prompt 13 ?" in browser.run(first)
    browser.run(
        "(b => { b.value = 'no such words'; b.dispatchEvent(new Event('input')); })"
        "(document.querySelector('#browse input[type=search]'))"
    )
    assert browser.run("document.querySelector('.told').textContent") == "none found"
    assert browser.run(SHOWN) == 0
    assert browser.errors == []


def test_without_scripts_all_samples_can_be_read(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280, scripts=False)
    root = browser("DOM.getDocument", depth=-1)["root"]["nodeId"]
    found = browser("DOM.querySelectorAll", nodeId=root, selector="details.kind .sample")["nodeIds"]
    ways = browser("DOM.querySelectorAll", nodeId=root, selector="details.kind .sample .greedy")["nodeIds"]
    assert len(found) == len(ways) == 24
    bar = browser("DOM.querySelectorAll", nodeId=root, selector="#browse[hidden]")["nodeIds"]
    assert len(bar) == 1


def test_print_shows_a_handful_of_samples(browser: Browser, page: Path) -> None:
    browser.open(page, width=700)
    browser("Emulation.setEmulatedMedia", media="print")
    assert browser.run(SHOWN) == 6
    assert browser.run("document.querySelector('#browse').offsetParent === null")
    assert browser("Page.printToPDF", preferCSSPageSize=True)["data"]
