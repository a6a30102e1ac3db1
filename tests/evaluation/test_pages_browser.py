"""Pages of evaluation, anatomy and claims as a browser shows them: a silent console, nothing cut off."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import tastemaker as tm
from tastemaker.cli.anatomy import ANATOMY
from tastemaker.evaluation.reward_report import ScoredPairs, reward_report
from tastemaker.models import save_model, word_model
from tastemaker.runs import Run
from tastemaker.studies.claims.claim import Claim, Finding
from tastemaker.studies.claims.run import Tried, html_page
from tastemaker.studies.pages import write_page
from tastemaker.studies.pages.best_of_n import best_of_n_page
from tastemaker.studies.pages.gold_peak import write_peak_page
from tastemaker.studies.pages.reward import reward_page
from tastemaker.town import Town

if TYPE_CHECKING:
    from browser import Browser

browsing = pytest.importorskip(
    "browser", reason="a browser is spoken to as POSIX systems do", exc_type=ImportError
)
PROGRAM = browsing.installed()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium is installed, so the page cannot be looked at"
)
NAMES = ("policies", "judgements", "reward", "best_of_n", "peak", "weights", "direction", "claims")
LONG = "a-name-that-goes-on-and-on-as-names-of-checkpoints-do-0123456789"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two untrained policies of the town, one of them with a long name."""
    root = tmp_path_factory.mktemp("models")
    words = Town(0).vocabulary()
    for seed, name in enumerate(("parent", LONG)):
        save_model(*word_model(words, seed=seed, hidden=16, layers=2, heads=2, max_length=256), root / name)
    return [str(root / "parent"), str(root / LONG)]


@pytest.fixture(scope="module")
def pages(models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    policies = tm.evaluate(models, prompts="town:0", number=12, max_new_tokens=4, out=root / "policies")
    file = root / "verdicts.jsonl"
    file.write_text("".join(json.dumps(v) + "\n" for v in verdicts()))
    common = ["--parent", models[0], "--out"]
    ANATOMY.run(["weights", models[1], *common, str(root / "weights")])
    small = ["--number", "6", "--max-new-tokens", "4"]
    ANATOMY.run(["direction", models[1], *common, str(root / "direction"), *small])
    return {
        "policies": policies.report,
        "judgements": tm.evaluate(judgements=file, out=root / "judgements").report,
        "reward": reward(root / "reward"),
        "best_of_n": best(root / "best_of_n"),
        "peak": peak(root / "run"),
        "weights": root / "weights" / "report.html",
        "direction": root / "direction" / "report.html",
        "claims": claims(root / "claims"),
    }


def verdicts() -> Iterator[dict[str, Any]]:
    for i in range(40):
        for j, name in enumerate(("first-model", LONG)):
            winner = "ab"[(i + j) % 3 == 0] if i % 7 else "tie"
            yield {
                "prompt": i,
                "model_a": name,
                "model_b": "baseline",
                "winner": winner,
                "category": f"kind {i % 3}",
                "length_a": 100 + 7 * i,
                "length_b": 140 + 3 * ((i * j) % 11),
            }


def reward(out: Path) -> Path:
    g = torch.Generator().manual_seed(0)
    margin = torch.randn(200, 3, generator=g) + 0.7
    base = torch.randn(200, 3, generator=g)
    lengths = torch.randint(50, 400, (2, 200), generator=g).double()
    pairs = ScoredPairs(
        chosen=base + margin,
        rejected=base,
        chosen_lengths=lengths[0],
        rejected_lengths=lengths[1],
        tied=torch.arange(200) % 11 == 0,
        subset=[("chat", LONG)[i % 2] for i in range(200)],
        annotator=[f"annotator {i % 3}" for i in range(200)],
    )
    curve = [
        {"n": 2.0**k, "kl": 0.3 * k, "value": 0.5 + 0.1 * k, "se": 0.02, "best": 0.5 + 0.15 * k}
        for k in range(3)
    ]
    results: dict[str, Any] = {
        "reward": LONG,
        "source": "pairs.jsonl",
        "seed": 0,
        "notes": [],
        "report": reward_report(pairs),
        "best_of_n": curve,
        "scatter": {"length": lengths[0].tolist(), "score": base[:, 0].tolist()},
    }
    return write_page(out, reward_page(results), results)


def best(out: Path) -> Path:
    curve = [
        {
            "n": 2.0**k,
            "kl": 0.4 * k,
            "value": 0.3 * k - 0.05 * k * k,
            "se": 0.1,
            "best": 0.5 * k,
            "random": 0.0,
            "proxy": 0.6 * k,
            "proxy_se": 0.1,
        }
        for k in range(5)
    ]
    results: dict[str, Any] = {
        "reward": LONG,
        "policy": "sft",
        "gold": LONG,
        "source": "p.jsonl",
        "prompts": 50,
        "samples": 16,
        "gain": 0.4,
        "gain_se": 0.1,
        "correlation": 0.6,
        "curve": curve,
        "notes": ["2 of 52 prompts were left out."],
    }
    return write_page(out, best_of_n_page(results), results)


def peak(folder: Path) -> Path:
    run = Run.create(folder, method="ppo", settings={}, seed=0)
    readings = [
        {
            "step": s,
            "gold": g,
            "gold_se": 0.1,
            "proxy": 0.1 * s,
            "proxy_se": 0.05,
            "kl": 0.3 * s,
            "kl_se": 0.1,
            "length": 12.0,
            "values": [g, g + 0.1, g - 0.1],
        }
        for s, g in ((0, 0.1), (10, 0.6), (20, 0.5), (30, -0.4))
    ]
    content = {
        "gold": LONG,
        "prompts": f"/{LONG}/{LONG}.jsonl",
        "peak": 10,
        "patience": 0,
        "readings": readings,
    }
    (folder / "gold.json").write_text(json.dumps(content))
    run.update(status="finished", reason=f"kept the policy of step 10: the gold ({LONG}) was highest")
    return write_peak_page(Run.open(folder))


def claims(out: Path) -> Path:
    claim = Claim(
        "one",
        "A statement that is long enough to need more than a line here.",
        "Somebody et al. 2024",
        "x",
        lambda study, seeds: found,
        rule="The interval lies above zero.",
    )
    found = Finding("holds here", "The difference is +0.31 [+0.10, +0.52] over five seeds.", {})
    tried = [Tried(claim, found), Tried(claim, None, f"its study is not there: {LONG}")]
    return write_page(out, html_page(tried, (1, 2)), {"claims": []})


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert PROGRAM is not None
    with browsing.Browser(PROGRAM) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_whole(browser: Browser, pages: Mapping[str, Path], name: str, width: int, dark: bool):
    page = pages[name]
    browser.open(page, width=width, dark=dark)
    assert browser.errors == []
    assert browser.requests == [page.resolve().as_uri()]
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run("document.querySelectorAll('h1').length") == 1
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    light = sum(int(c) for c in paper.removeprefix("rgb(").removesuffix(")").split(",")[:3]) > 380
    assert light != dark
    anchors = (
        "[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.getAttribute('href')))"
    )
    assert browser.run(anchors)
    # what is too wide for a phone scrolls by itself, and can be reached with the keyboard
    wide = "[...document.querySelectorAll('.scroll')].every(e => e.tabIndex === 0)"
    assert browser.run(wide)


def test_figures_are_drawn_and_can_be_read_on_a_phone(browser: Browser, pages: Mapping[str, Path]):
    drawn = "[...document.querySelectorAll('svg')].filter(e => e.getBoundingClientRect().width > 60).length"
    heights = (
        "[...document.querySelectorAll('svg text')].filter(e => e.getBoundingClientRect().width)"
        ".map(e => [parseFloat(getComputedStyle(e).fontSize), e.getScreenCTM()])"
        ".map(([size, m]) => size * Math.hypot(m.a, m.b))"
    )
    least = {
        "policies": 1,
        "judgements": 1,
        "reward": 4,
        "best_of_n": 2,
        "peak": 2,
        "weights": 1,
        "direction": 1,
    }
    for name, number in least.items():
        browser.open(pages[name], width=390)
        assert browser.run(drawn) >= number, name
        assert min(browser.run(heights)) > 8.5, name
