"""Weights that lie in a mapped file: read, hashed and cast, they do not stay in memory, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tastemaker.models.pages import Pages
from tastemaker.models.weights import cast_weights, model_hash

SIZE = 64 * 2**20


def resident() -> int:
    """Bytes of files that are mapped and in memory."""
    text = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in text.splitlines() if line.startswith("RssFile"))


def wide(folder: Path) -> Path:
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=2048,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    weights = {n: torch.randn(p.shape, generator=generator) for n, p in model.named_parameters()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config.save_pretrained(folder)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="the list of mapped files is Linux's")  # elsewhere none
def test_hashing_and_casting_leave_no_pages_behind_and_the_same_numbers(tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(wide(tmp_path), dtype=torch.float32)
    assert Pages().spans
    expected = {n: p.detach().clone() for n, p in model.named_parameters()}  # reads every page
    before = resident()
    first = model_hash(model)
    assert resident() < before - SIZE // 2
    assert model_hash(model) == first
    cast_weights(model, torch.bfloat16)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected[name].bfloat16())


def test_what_was_changed_in_place_is_kept(tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(wide(tmp_path), dtype=torch.float32)
    weight = model.model.embed_tokens.weight
    with torch.no_grad():
        weight[5000] = 7.0
    Pages().release(weight)
    assert (weight[5000] == 7).all()
    assert not (weight[4999] == 7).any()


LARGE = Path("/sys/kernel/mm/transparent_hugepage")


@pytest.mark.skipif(not LARGE.exists(), reason="no large pages here")  # then the system cannot be asked
@pytest.mark.parametrize(("wish", "asked"), [({}, True), ({"THP_MEM_ALLOC_ENABLE": "0"}, False)])
def test_large_pages_are_asked_for_unless_told_otherwise(wish: dict[str, str], asked: bool) -> None:
    code = (
        "import tastemaker, torch; x = torch.ones(2**25, dtype=torch.uint8)\n"
        "print(any(' hg' in line for line in open('/proc/self/smaps') if line.startswith('VmFlags')))"
    )
    kept = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    words = [sys.executable, "-c", code]
    said = subprocess.run(words, env={**kept, **wish}, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str(asked)
