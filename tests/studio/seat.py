"""One person at one browser, on a studio that is served."""

from __future__ import annotations

import shutil
from typing import Any

from sqlalchemy import select

from studio.shop import PASSWORD, Shop
from tastemaker.feedback.tables import Judgement, Person

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
PATIENCE = 60_000


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
