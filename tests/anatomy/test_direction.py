"""The direction of refusal, in a model made to refuse by one direction, and the hooks that read and change
it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tastemaker.anatomy.direction import (
    Prompts,
    cosines,
    find_direction,
    mean_differences,
    projections,
    refusal_score,
    separation,
)
from tastemaker.anatomy.residual import ablated, added, decoder_layers, last_logits, residuals
from tastemaker.cli.anatomy import ANATOMY
from tastemaker.errors import TastemakerError
from tastemaker.models import save_model, word_model
from tastemaker.studies.refusal_direction import file_material, verdict
from tastemaker.town import Town, text

WORDS = ["go", "sorry", "fine", "rob", "visit", "the", "mill", "inn", "now", "please"]
HARM, CALM = "rob", "visit"


def made(strength: float = 3.0):
    """A model whose word for harm writes a direction that makes "sorry" likely, and whose attention passes it
    on.
    """
    model, tokenizer = word_model(WORDS, seed=0, hidden=32, layers=2, heads=2, max_length=64)
    ids = {w: tokenizer.convert_tokens_to_ids(w) for w in WORDS}
    r = torch.zeros(32)
    r[5] = 1
    with torch.no_grad():
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        model.model.embed_tokens.weight[:, 5] = 0
        model.model.embed_tokens.weight[ids[HARM]] = model.model.embed_tokens.weight[ids[CALM]]
        model.model.embed_tokens.weight[ids[HARM], 5] = strength
        model.lm_head.weight[ids["sorry"]] = 4 * r
        model.lm_head.weight[ids["fine"]] = 0.02
        first = model.model.layers[0].self_attn
        for linear in (first.v_proj, first.o_proj):
            linear.weight.zero_()
            linear.weight[5, 5] = 3
    return model.eval(), tokenizer, ids


def prompts(ids: dict[str, int], word: str, n: int = 8) -> list[torch.Tensor]:
    fillers = ["the", "mill", "inn", "now", "please", "go"]
    return [
        torch.tensor([ids[fillers[i % 6]], ids[word], ids[fillers[(i * 5 + 1) % 6]], ids["now"], ids["go"]])
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def world():
    model, tokenizer, ids = made()
    return model, tokenizer, ids, Prompts(prompts(ids, HARM), prompts(ids, CALM))


def test_residuals_are_the_models_own_hidden_states(world):
    model, _, _, both = world
    found = residuals(model, both.harmful, [-1, -2])
    assert found.shape == (8, 3, 2, 32)
    with torch.no_grad():
        states = model(input_ids=both.harmful[0][None], output_hidden_states=True).hidden_states
    assert torch.allclose(found[0, 0], states[0][0, [-1, -2]]) and torch.allclose(
        found[0, 1], states[1][0, [-1, -2]]
    )
    mixed = residuals(model, [both.harmful[0], both.harmful[1][1:]], [-1])
    assert torch.allclose(mixed[0, 1, 0], found[0, 1, 0], atol=1e-5)
    with pytest.raises(TastemakerError, match="fewer than the 9 tokens"):
        residuals(model, both.harmful, [-9])


def test_the_direction_is_found_and_does_what_it_should(world):
    model, _, ids, both = world
    found = find_direction(model, both, both, [ids["sorry"]], positions=(-1, -2))
    unit = found.direction / found.direction.norm()
    assert abs(float(unit[5])) > 0.9
    assert found.chosen.layer >= 1  # the last token is the same in every prompt: no direction in its embedding
    plain = refusal_score(last_logits(model, both.harmful), [ids["sorry"]])
    with ablated(model, found.direction):
        without = refusal_score(last_logits(model, both.harmful), [ids["sorry"]])
    calm = refusal_score(last_logits(model, both.harmless), [ids["sorry"]])
    with added(model, found.direction, found.chosen.layer):
        induced = refusal_score(last_logits(model, both.harmless), [ids["sorry"]])
    assert float(plain.mean()) > float(calm.mean()) + 1
    assert float(without.mean()) < float(plain.mean()) - 1 and float(induced.mean()) > float(calm.mean()) + 1
    assert torch.equal(refusal_score(last_logits(model, both.harmful), [ids["sorry"]]), plain)  # hooks are gone
    along = projections(model, both.harmful, found), projections(model, both.harmless, found)
    assert separation(*along) == 1


def test_nothing_along_an_ablated_direction_leaves_any_layer(world):
    model, _, _, both = world
    r = torch.randn(32, generator=torch.Generator().manual_seed(3))
    with ablated(model, r):
        inside = residuals(model, both.harmful, [-1])
    assert float((inside[:, -1] @ (r / r.norm())).abs().max()) < 1e-4
    assert float((residuals(model, both.harmful, [-1])[:, -1] @ r).abs().max()) > 1e-3


def test_added_to_the_prompt_alone_leaves_single_steps_alone(world):
    model, _, _, both = world
    r = torch.ones(32)
    plain = last_logits(model, both.harmless)
    with added(model, r, 1, prompt_only=True):
        assert not torch.allclose(last_logits(model, both.harmless), plain)
        one = model(input_ids=both.harmless[0][None, :1]).logits
    assert torch.equal(one, model(input_ids=both.harmless[0][None, :1]).logits)


def test_refusal_score_is_the_log_odds():
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    p = logits.softmax(-1)[0, [0, 2]].sum()
    assert float(refusal_score(logits, [0, 2])) == pytest.approx(float((p / (1 - p)).log()), rel=1e-6)


def test_cosine_with_the_parent(world):
    model, _, _, both = world
    own = mean_differences(model, both, (-1, -2))
    assert torch.nan_to_num(cosines(own, 2 * own), nan=1.0).allclose(torch.ones(3, 2))
    assert bool(cosines(torch.zeros_like(own), own).isnan().all())
    assert float(cosines(own, -own)[1, 0]) == pytest.approx(-1)


def test_too_few_prompts_and_models_of_another_shape(world):
    model, _, ids, both = world
    with pytest.raises(TastemakerError, match="2 harmful prompts are too few"):
        Prompts(both.harmful[:2], both.harmless)
    with pytest.raises(TastemakerError, match="cannot be read"):
        decoder_layers(torch.nn.Linear(2, 2))
    with pytest.raises(TastemakerError, match="there is no direction"):
        find_direction(model, Prompts(both.harmful, both.harmful), both, [ids["sorry"]])
    assert separation(torch.tensor([]), torch.tensor([1.0])) != separation(
        torch.tensor([]), torch.tensor([1.0])
    )


def test_the_verdict_follows_the_figures():
    def cell(rate: float) -> dict:
        return {"rate": rate, "low": rate - 0.1, "high": rate + 0.1, "n": 50.0}

    def way(unsafe: float, safe: float, begins: float) -> dict:
        return {
            "refused_unsafe": cell(unsafe),
            "refused_safe": cell(safe),
            "begins_refusing_safe": cell(begins),
        }

    still, gone, up, half = way(0.8, 0.0, 0.0), way(0.1, 0.0, 0.0), way(0.9, 0.9, 0.9), way(0.9, 0.0, 0.9)
    good = verdict({"as it stands": still, "ablated": gone, "added": up, "added to the prompt": up})
    assert good["removes"] and good["induces"]
    fell = verdict(
        {"as it stands": still, "ablated": way(0.65, 0, 0), "added": half, "added to the prompt": half}
    )
    assert not fell["removes"] and "is not shown to remove" in fell["text"][0]
    bad = verdict({"as it stands": still, "ablated": still, "added": half, "added to the prompt": half})
    assert not bad["removes"] and not bad["induces"] and bad["begins"]
    assert "does not remove" in bad["text"][0] and "does not show what it should" in bad["text"][1].replace(
        "\n", " "
    )


def test_files_of_prompts_are_cut_in_three(tmp_path: Path):
    file = tmp_path / "requests.jsonl"
    rows = [{"instruction": f"{'rob' if i % 2 else 'visit'} {i}", "harmful": bool(i % 2)} for i in range(40)]
    rows += rows[:6]  # the same prompt must not be in two parts
    rows.append({"instruction": "please rob", "harmful": True, "jailbreak": True})
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = file_material(str(file), 48)
    assert [len(p) for p in found.harmful] == [6, 6, 6] and len(found.reworded) == 1
    texts = [r.prompt for part in found.harmful for r in part]
    assert len(set(texts)) == 18
    file.write_text(json.dumps({"instruction": "x"}) + "\n")
    with pytest.raises(TastemakerError, match=r"requests\.jsonl:1"):
        file_material(str(file), 48)


def test_a_study_on_the_town_by_the_command(tmp_path: Path):
    town = Town(0)
    for seed, name in ((0, "parent"), (1, "run")):
        save_model(
            *word_model(town.vocabulary(), seed=seed, hidden=16, layers=2, heads=2, max_length=256),
            tmp_path / name,
        )
    out = tmp_path / "out"
    options = [
        "--parent",
        str(tmp_path / "parent"),
        "--number",
        "6",
        "--max-new-tokens",
        "4",
        "--out",
        str(out),
    ]
    ANATOMY.run(["direction", str(tmp_path / "run"), *options])
    found = json.loads((out / "results.json").read_text())
    assert found["effects"]["ablated"]["refused_unsafe"]["n"] == 6
    assert found["verdict"]["removes"] is False and "does not" in found["verdict"]["text"][0]
    assert found["projections"]["groups"][0]["group"] == "harmless"
    assert "Before and after alignment" in (out / "report.html").read_text()
    ANATOMY.run(["layers", str(tmp_path / "run"), *options])
    found = json.loads((out / "results.json").read_text())
    assert found["metric"] == "gold" and {p["part"] for p in found["parts"]} >= {
        "layer 0",
        "layer 1",
        "all mlp",
    }
    assert text.REFUSAL
