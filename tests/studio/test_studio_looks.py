"""Every page in a real browser: hostile texts stay texts, and what is there can be read, named and reached."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from studio.seat import Seat
from studio.shop import Shop
from tastemaker.feedback.items import Written, add_item
from tastemaker.feedback.projects import KINDS, ProjectSettings, create_project
from tastemaker.types import Message

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
