"""Export: what is saved loads in transformers and peft with the same numbers; merging happens in a copy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from models.role_worlds import (
    LORA,
    batch,
    build,
    gpt2,
    llama,
    logps_by_hand,
    nudge,
    qwen2,
    rows_of,
    run_folder,
    saved,
    tokenizer,
    trained_run,
)
from tastemaker.errors import TastemakerError
from tastemaker.models.adapters import LoraSettings
from tastemaker.models.export import export_model, merged, save_model
from tastemaker.models.load import load_causal
from tastemaker.models.weights import model_hash


def scores_by_transformers(classifier: torch.nn.Module, batch) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([classifier(input_ids=ids[None]).logits[0, 0] for ids, _ in rows_of(batch)])


# ------------------------------------------------------------------------------- policies


@pytest.mark.parametrize("make", [llama, qwen2, gpt2])
def test_policy_folder_loads_in_transformers_with_the_same_numbers(make, tmp_path: Path):
    models = build(["policy"], ["policy"], policy=(make(), tokenizer()))
    nudge(models, "policy")
    models.save("policy", tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert model.config._attn_implementation != "tastemaker"
    trees = batch()
    torch.testing.assert_close(
        models.score("policy", trees).logps, logps_by_hand(model, trees), atol=1e-5, rtol=1e-5
    )
    assert load_causal(tmp_path / "m").weights_hash == models.weights_hash("policy")
    assert model.generation_config.eos_token_id == 2
    assert model.generation_config.pad_token_id == 0
    words = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert tokenizer().get_vocab().items() <= words.get_vocab().items()
    assert words.chat_template == tokenizer().chat_template
    out = model.generate(torch.tensor([[1, 6, 7]]), max_new_tokens=3, do_sample=False)
    assert out.shape[1] > 3
    assert not [
        p.name for p in (tmp_path / "m").iterdir() if p.suffix not in {".json", ".safetensors", ".jinja"}
    ]


@pytest.mark.parametrize("make", [llama, gpt2])
def test_adapter_folder_loads_in_peft_with_the_same_numbers(make, tmp_path: Path):
    base = saved(make(), tmp_path / "base")
    models = build(["policy"], ["policy"], policy=base, lora=LORA)
    nudge(models, "policy")
    run = run_folder(models, "policy", tmp_path / "run")
    trees = batch()
    ours = models.score("policy", trees).logps
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run / "model")
    torch.testing.assert_close(ours, logps_by_hand(plain, trees), atol=1e-5, rtol=1e-5)
    by_name = AutoPeftModelForCausalLM.from_pretrained(run / "model")
    torch.testing.assert_close(ours, logps_by_hand(by_name, trees), atol=1e-5, rtol=1e-5)
    assert load_causal(run).weights_hash == models.weights_hash("policy")
    back = build(["policy"], [], policy=run)
    assert torch.equal(back.score("policy", trees).logps, ours)


def test_adapter_of_a_model_in_memory_brings_its_base_along(tmp_path: Path):
    model = llama(3)
    models = build(["policy"], ["policy"], policy=(model, tokenizer()), lora=LORA, dtype="bfloat16")
    nudge(models, "policy")
    run = run_folder(models, "policy", tmp_path / "run")
    found = load_causal(run)
    assert found.base_hash == model_hash(model)
    assert found.weights_hash == models.weights_hash("policy")
    AutoPeftModelForCausalLM.from_pretrained(run / "model")
    run.rename(tmp_path / "moved")
    assert load_causal(tmp_path / "moved").weights_hash == found.weights_hash
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    with pytest.raises(TastemakerError, match="has changed since"):
        models.save("policy", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_second_stage_starts_from_the_adapter_run_and_shares_the_base(tmp_path: Path):
    source = (llama(3), tokenizer())
    sft = trained_run(tmp_path / "sft", source, lora=LORA)
    reward = trained_run(tmp_path / "rm", sft, role="reward", seed=4)
    ppo = build(("policy", "reference", "reward", "value"), ["policy", "value"], policy=sft, reward=reward)
    assert ppo.model_copies() == 1
    nudge(ppo, "policy")
    nudge(ppo, "value")
    last = run_folder(ppo, "policy", tmp_path / "ppo")
    ppo.save("value", tmp_path / "value")
    assert load_causal(last).weights_hash == ppo.weights_hash("policy")
    value = load_causal(tmp_path / "value")
    assert value.weights_hash == ppo.weights_hash("value")
    assert load_causal(last).base_hash == load_causal(sft).base_hash


# ------------------------------------------------------------------------------- reward models


@pytest.mark.parametrize("make", [llama, qwen2, gpt2])
def test_reward_model_loads_in_transformers_with_the_same_scores(make, tmp_path: Path):
    models = build(["reward"], ["reward"], policy=(make(), tokenizer()))
    nudge(models, "reward")
    run = run_folder(models, "reward", tmp_path / "rm")
    trees = batch()
    ours = models.score("reward", trees).rewards
    classifier = AutoModelForSequenceClassification.from_pretrained(run / "model")
    words = AutoTokenizer.from_pretrained(run / "model")
    assert classifier.config.num_labels == 1
    assert classifier.config.pad_token_id == words.pad_token_id != words.eos_token_id
    torch.testing.assert_close(ours, scores_by_transformers(classifier, trees), atol=1e-5, rtol=1e-5)
    rows = [ids for ids, _ in rows_of(trees)]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=words.pad_token_id)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
    with torch.no_grad():
        together = classifier(input_ids=padded, attention_mask=mask).logits[:, 0]
    torch.testing.assert_close(ours, together, atol=1e-5, rtol=1e-5)
    back = build(["reward"], [], policy=None, reward=run)
    assert torch.equal(back.score("reward", trees).rewards, ours)
    assert back.weights_hash("reward") == models.weights_hash("reward")


@pytest.mark.parametrize("pad", ["end token", "none"])
def test_C13_exported_reward_model_pads_with_a_token_no_response_ends_with(pad: str, tmp_path: Path):
    words = tokenizer()
    words.pad_token = words.eos_token if pad == "end token" else None
    models = build(["reward"], ["reward"], policy=(llama(), words))
    nudge(models, "reward")
    run = run_folder(models, "reward", tmp_path / "rm")
    trees = batch()
    for tree in trees.trees:
        for response in tree.responses:
            response[-1] = words.eos_token_id
    classifier = AutoModelForSequenceClassification.from_pretrained(run / "model")
    theirs = scores_by_transformers(classifier, trees)
    torch.testing.assert_close(models.score("reward", trees).rewards, theirs, atol=1e-5, rtol=1e-5)


def test_reward_adapter_loads_in_peft_as_a_sequence_classifier(tmp_path: Path):
    base = saved(llama(), tmp_path / "base")
    models = build(["reward"], ["reward"], policy=base, lora=LORA)
    nudge(models, "reward")
    run = run_folder(models, "reward", tmp_path / "rm")
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    classifier = PeftModel.from_pretrained(plain, run / "model").eval()
    trees = batch()
    ours = models.score("reward", trees).rewards
    torch.testing.assert_close(ours, scores_by_transformers(classifier, trees), atol=1e-5, rtol=1e-5)
    (run / "model" / "head.json").unlink()  # as an adapter trained elsewhere has no file of ours
    found = load_causal(run)
    assert found.weights_hash == models.weights_hash("reward")


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["last", "token"])
def test_reward_run_round_trips(kind: str, lora, tmp_path: Path):
    models = build(["reward"], ["reward"], policy=(llama(tied=False), tokenizer()), lora=lora, head=kind)
    nudge(models, "reward")
    run = run_folder(models, "reward", tmp_path / "rm")
    back = build(["reward"], [], policy=None, reward=run)
    trees = batch()
    assert torch.equal(back.score("reward", trees).rewards, models.score("reward", trees).rewards)
    assert back.weights_hash("reward") == models.weights_hash("reward")
    assert back.table()["reward"].head == kind
    again = build(["reward"], ["reward"], policy=run)
    assert again.weights_hash("reward") == models.weights_hash("reward"), "training continues the head"


# ------------------------------------------------------------------------------- merging


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "lora",
    [
        LORA,
        LoraSettings(r=4, modules_to_save=("embed_tokens",)),
        LoraSettings(r=4, modules_to_save=("lm_head",)),
        LoraSettings(r=4, target_modules=("q_proj", "embed_tokens")),
    ],
    ids=["linear", "save-embeddings", "save-head", "lora-embeddings"],
)
def test_E1_E2_merge_in_a_copy_gives_the_adapters_numbers(lora: LoraSettings, tied: bool, tmp_path: Path):
    base = saved(llama(tied=tied), tmp_path / "base")
    models = build(["policy"], ["policy"], policy=base, lora=lora)
    nudge(models, "policy")
    run = run_folder(models, "policy", tmp_path / "run")
    trees = batch()
    ours = models.score("policy", trees).logps
    assert load_causal(run).weights_hash == models.weights_hash("policy")

    loaded = load_causal(run)
    whole = merged(loaded)
    assert model_hash(loaded.model) == loaded.base_hash, "the base is as it was, bit for bit"
    assert whole.adapter is None
    export_model(run, tmp_path / "full", merge_adapter=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "full")
    torch.testing.assert_close(ours, logps_by_hand(model, trees), atol=2e-5, rtol=1e-5)
    assert load_causal(tmp_path / "full").weights_hash == whole.weights_hash
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert torch.equal(embedding, head) == tied
    assert model.config.tie_word_embeddings == tied
    assert load_causal(base).weights_hash == loaded.base_hash


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings", "ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
)
def test_E2_an_adapter_that_parts_tied_embeddings_merges_into_an_untied_model(settings, tmp_path: Path):
    base = saved(llama(), tmp_path / "base")
    adapted = get_peft_model(load_causal(base).model, LoraConfig(r=2, task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(tmp_path / "adapter")
    trees = batch()
    theirs = logps_by_hand(adapted, trees)
    live = build(["policy"], [], policy=tmp_path / "adapter").score("policy", trees).logps
    torch.testing.assert_close(live, theirs, atol=2e-5, rtol=1e-5)
    export_model(tmp_path / "adapter", tmp_path / "full", merge_adapter=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "full")
    assert not model.config.tie_word_embeddings
    torch.testing.assert_close(logps_by_hand(model, trees), theirs, atol=2e-5, rtol=1e-5)


def test_E1_merging_into_bfloat16_rounds_once(tmp_path: Path):
    base = saved(llama().to(torch.bfloat16), tmp_path / "base")
    run = trained_run(tmp_path / "run", base, lora=LORA)
    loaded = load_causal(run)
    whole = merged(loaded)
    assert whole.model.dtype == torch.bfloat16
    assert model_hash(loaded.model) == loaded.base_hash
    name = "model.layers.0.self_attn.q_proj"
    a, b = (loaded.adapter.tensors[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    exact = loaded.model.get_submodule(name).weight.double() + 2.0 * (b.double() @ a.double())
    torch.testing.assert_close(
        whole.model.get_submodule(name).weight, exact.to(torch.bfloat16), atol=1e-6, rtol=0.004
    )


def test_merged_reward_adapter_is_a_full_reward_model(tmp_path: Path):
    run = trained_run(tmp_path / "rm", saved(llama(), tmp_path / "base"), role="reward", lora=LORA)
    export_model(run, tmp_path / "full", merge_adapter=True)
    trees = batch()
    ours = build(["reward"], [], policy=None, reward=run).score("reward", trees).rewards
    theirs = scores_by_transformers(
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "full"), trees
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_export_of_a_run_is_the_run(lora, tmp_path: Path):
    run = trained_run(tmp_path / "run", saved(llama(), tmp_path / "base"), lora=lora)
    export_model(run, tmp_path / "out")
    assert load_causal(tmp_path / "out").weights_hash == load_causal(run).weights_hash


# ------------------------------------------------------------------------------- whole or not at all


def test_existing_folder_is_kept_unless_asked(tmp_path: Path):
    save_model(llama(0), tokenizer(), tmp_path / "m")
    before = load_causal(tmp_path / "m").weights_hash
    (tmp_path / "m" / "mine.txt").write_text("kept")
    with pytest.raises(TastemakerError, match="there already"):
        save_model(llama(1), tokenizer(), tmp_path / "m")
    assert load_causal(tmp_path / "m").weights_hash == before
    save_model(llama(1), tokenizer(), tmp_path / "m", overwrite=True)
    assert load_causal(tmp_path / "m").weights_hash == model_hash(llama(1))
    assert os.listdir(tmp_path) == ["m"], "nothing is left beside it"


def test_failing_save_leaves_the_old_folder_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_model(llama(0), tokenizer(), tmp_path / "m")
    before = load_causal(tmp_path / "m").weights_hash
    words = tokenizer()

    def full(*_args: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(words), "save_pretrained", full)
    with pytest.raises(TastemakerError, match="No space left"):
        save_model(llama(1), words, tmp_path / "m", overwrite=True)
    monkeypatch.undo()
    assert load_causal(tmp_path / "m").weights_hash == before
    assert os.listdir(tmp_path) == ["m"]


def test_untrained_roles_have_nothing_to_save(tmp_path: Path):
    models = build(["policy"], [], policy=(llama(), tokenizer()))
    with pytest.raises(TastemakerError, match="not trained"):
        models.save("policy", tmp_path / "m")
