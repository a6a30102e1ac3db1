"""Loading: folders, runs, adapters, reward models, models in memory; what is refused, and in which words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, LlamaForSequenceClassification

from models.role_worlds import LORA, batch, build, llama, logps_by_hand, qwen2, saved, tokenizer, trained_run
from tastemaker.errors import TastemakerError
from tastemaker.models.load import load_causal, locate
from tastemaker.models.weights import cast_weights, model_hash, tensors_hash


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


# ------------------------------------------------------------------------------- hashes


def test_hash_knows_names_bytes_dtypes_and_shapes():
    a = {"x": torch.arange(6.0), "y": torch.ones(2)}
    digest = tensors_hash(a)
    assert tensors_hash(dict(reversed(a.items()))) == digest
    assert tensors_hash({"x": torch.arange(6.0).clone(), "y": torch.ones(2)}) == digest
    others = [
        {"z": a["x"], "y": a["y"]},
        {"x": a["x"].double(), "y": a["y"]},
        {"x": a["x"].reshape(2, 3), "y": a["y"]},
        {"x": a["x"] + torch.tensor([0, 0, 0, 0, 0, 1e-6]), "y": a["y"]},
        {"x": a["x"]},
        {"x": a["y"], "y": a["x"]},
    ]
    assert len({digest, *map(tensors_hash, others)}) == len(others) + 1
    strided = torch.arange(12.0).reshape(6, 2)[:, 0] / 2
    assert tensors_hash({"x": strided, "y": torch.ones(2)}) == digest, "layout in memory does not count"
    tensors_hash({"x": torch.tensor(1.0), "y": torch.zeros(0), "z": torch.ones(2, dtype=torch.bfloat16)})


@pytest.mark.parametrize("tied", [True, False])
def test_hash_is_the_same_in_memory_and_after_a_round_trip(tied: bool, tmp_path: Path):
    model = llama(tied=tied)
    found = load_causal(saved(model, tmp_path / "m"))
    assert found.weights_hash == model_hash(model) == load_causal((model, tokenizer())).weights_hash
    assert found.model.get_input_embeddings().weight is found.model.get_output_embeddings().weight or not tied


def test_hash_is_of_the_stored_weights_whatever_they_are_cast_to(tmp_path: Path):
    folder = saved(llama(), tmp_path / "m")
    wide, narrow = load_causal(folder), load_causal(folder, dtype=torch.bfloat16)
    assert wide.weights_hash == narrow.weights_hash
    assert narrow.model.dtype == torch.bfloat16
    assert model_hash(narrow.model) != wide.weights_hash


def test_casting_leaves_rotary_frequencies_alone():
    model = llama()
    before = model.model.rotary_emb.inv_freq.clone()
    cast_weights(model, torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    assert torch.equal(model.model.rotary_emb.inv_freq, before)


# ------------------------------------------------------------------------------- where


def test_run_folder_gives_its_model(tmp_path: Path):
    run = trained_run(tmp_path / "sft", (llama(), tokenizer()))
    assert locate(run)[0] == run / "model"
    assert load_causal(str(run)).weights_hash == load_causal(run / "model").weights_hash


def test_unfinished_run_says_so(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(TastemakerError, match="no model yet"):
        load_causal(tmp_path / "run")


@pytest.mark.parametrize("source", ["./no/such/folder", "/no/such", "a/b/c", "runs\\sft", ""])
def test_absent_folder_says_where_it_looked(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    if source == "":
        source = str(tmp_path / "gone")
    with pytest.raises(TastemakerError, match="no such folder") as error:
        load_causal(source)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", ["nobody/nothing-of-that-name", "nothing-of-that-name"])
def test_hub_name_offline_and_not_cached_is_explained(name: str):
    with pytest.raises(TastemakerError, match=f"{name}.*set offline.*hf download"):
        load_causal(name)


def test_code_from_a_repository_needs_a_pinned_revision():
    for revision in (None, "main", "abc123"):
        with pytest.raises(TastemakerError, match="40-digit revision"):
            load_causal("org/model", trust_remote_code=True, revision=revision)


# ------------------------------------------------------------------------------- refused


def test_folder_with_only_pickled_weights_is_refused_and_never_opened(tmp_path: Path):
    folder = saved(llama(), tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n(S'touch planted'\ntR.")
    with pytest.raises(TastemakerError, match=r"pytorch_model\.bin.*can run code"):
        load_causal(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(TastemakerError, match="no weights"):
        load_causal(folder)
    assert not Path("planted").exists()


def test_adapter_with_only_pickled_weights_is_refused(tmp_path: Path):
    run = trained_run(tmp_path / "sft", saved(llama(), tmp_path / "base"), lora=LORA)
    (run / "model" / "adapter_model.safetensors").rename(run / "model" / "adapter_model.bin")
    with pytest.raises(TastemakerError, match=r"adapter_model\.bin.*can run code"):
        load_causal(run)


def test_missing_weights_are_not_filled_at_random(tmp_path: Path):
    folder = saved(llama(), tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    gone = "model.layers.1.mlp.up_proj.weight"
    save_file(
        {n: t for n, t in tensors.items() if n != gone}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(TastemakerError, match=gone):
        load_causal(folder)


def test_broken_folders_are_explained(tmp_path: Path):
    folder = saved(llama(), tmp_path / "m")
    (tmp_path / "file").write_text("x")
    with pytest.raises(TastemakerError, match="a file"):
        load_causal(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TastemakerError, match=r"neither config\.json"):
        load_causal(tmp_path / "empty")
    bare = tmp_path / "bare"
    llama().save_pretrained(bare)
    with pytest.raises(TastemakerError, match="no tokenizer"):
        load_causal(bare)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(TastemakerError, match="cannot be read"):
        load_causal(folder)


def test_peft_model_in_memory_and_other_adapters_are_refused(tmp_path: Path):
    model = get_peft_model(llama(), LoraConfig(target_modules="all-linear"))
    with pytest.raises(TastemakerError, match="carries a peft adapter"):
        load_causal((model, tokenizer()))
    run = trained_run(tmp_path / "sft", saved(llama(), tmp_path / "base"), lora=LORA)
    config = run / "model" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "PROMPT_TUNING"}))
    with pytest.raises(TastemakerError, match="PROMPT_TUNING"):
        load_causal(run)


# ------------------------------------------------------------------------------- adapters


def test_adapter_brings_its_base_and_shares_one_already_loaded(tmp_path: Path):
    base = saved(llama(), tmp_path / "base")
    run = trained_run(tmp_path / "sft", base, lora=LORA)
    found, plain = load_causal(run), load_causal(base)
    assert found.adapter is not None
    assert found.base_hash == plain.weights_hash != found.weights_hash
    assert found.location == str((run / "model").resolve())
    assert found.base_location == str(base.resolve())
    assert load_causal(run, base=found).base_location == found.base_location
    assert load_causal(run, base=plain).model is plain.model
    other = load_causal((llama(5), tokenizer()))
    assert load_causal(run, base=other).model is not other.model


def test_adapter_over_a_changed_base_is_refused(tmp_path: Path):
    base = saved(llama(), tmp_path / "base")
    run = trained_run(tmp_path / "sft", base, lora=LORA)
    shutil.rmtree(base)
    saved(llama(4), base)
    with pytest.raises(TastemakerError, match="Restore the base"):
        load_causal(run)
    shutil.rmtree(base)
    with pytest.raises(TastemakerError, match=r"base model cannot be loaded.*no such folder"):
        load_causal(run)


def test_adapter_scale_is_part_of_the_hash(tmp_path: Path):
    run = trained_run(tmp_path / "sft", saved(llama(), tmp_path / "base"), lora=LORA)
    before = load_causal(run).weights_hash
    config = run / "model" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 9}))
    assert load_causal(run).weights_hash != before


def test_adapter_made_by_peft_alone_loads(tmp_path: Path):
    base = saved(llama(), tmp_path / "base")
    model = get_peft_model(load_causal(base).model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    model.save_pretrained(tmp_path / "adapter")
    models = build(["policy"], [], policy=tmp_path / "adapter")
    trees = batch()
    torch.testing.assert_close(
        models.score("policy", trees).logps, logps_by_hand(model, trees), atol=1e-5, rtol=0
    )


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings", "ignore:Setting `save_embedding_layers`")
def test_adapter_cannot_bring_other_base_weights(tmp_path: Path):
    base = saved(llama(), tmp_path / "base")
    model = get_peft_model(load_causal(base).model, LoraConfig(r=2, target_modules=["embed_tokens"]))
    model.save_pretrained(tmp_path / "same")
    build(["policy"], [], policy=tmp_path / "same")
    with torch.no_grad():
        model.get_input_embeddings().base_layer.weight[3] += 1.0
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(TastemakerError, match="other weights for its base"):
        build(["policy"], [], policy=tmp_path / "other")


# ------------------------------------------------------------------------------- reward models


@pytest.mark.parametrize("make", [llama, qwen2])
def test_sequence_classifier_made_by_transformers_loads_as_a_reward_model(make, tmp_path: Path):
    config = make().config
    config.num_labels, config.pad_token_id = 1, 0
    torch.manual_seed(0)
    classifier = AutoModelForSequenceClassification.from_config(config).eval()
    folder = saved(classifier, tmp_path / "rm")
    models = build(["reward"], [], policy=None, reward=folder)
    trees = batch()
    ours = models.score("reward", trees).rewards
    with torch.no_grad():
        theirs = torch.stack(
            [
                classifier(input_ids=torch.cat([t.prompt, r])[None]).logits[0, 0]
                for t in trees.trees
                for r in t.responses
            ]
        )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert load_causal(folder).weights_hash == load_causal(folder).weights_hash


def test_classifiers_with_more_outputs_are_refused(tmp_path: Path):
    config = llama().config
    config.num_labels = 2
    folder = saved(LlamaForSequenceClassification(config), tmp_path / "c")
    with pytest.raises(TastemakerError, match="2 outputs"):
        load_causal(folder)
