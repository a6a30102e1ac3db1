"""Tiny models and their tokenizers: deterministic, plain Hugging Face, with generation markers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tastemaker.errors import TastemakerError
from tastemaker.models.export import save_model
from tastemaker.models.tiny import tiny_model, word_model
from tastemaker.models.weights import model_hash

TEXTS = ["the harbour opens at nine", "the museum closes at five", "is the harbour open?"] * 5
WORDS = ["is", "the", "harbour", "open?", "at", "nine", "and", "museum?"]
CHAT = [
    {"role": "user", "content": "is the harbour open?"},
    {"role": "assistant", "content": "at nine"},
    {"role": "user", "content": "and the museum?"},
]


def small(seed: int = 0):
    return tiny_model(TEXTS, seed=seed, vocab_size=300, hidden=32, layers=1, heads=2)


def test_same_seed_same_model_other_seed_other_weights():
    (a, ta), (b, tb), (c, _) = small(), small(), small(1)
    assert model_hash(a) == model_hash(b) != model_hash(c)
    assert ta.get_vocab() == tb.get_vocab()
    assert ta.backend_tokenizer.to_str() == tb.backend_tokenizer.to_str()


def test_random_state_of_the_caller_is_left_alone():
    torch.manual_seed(7)
    small()
    after = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(3))


def test_any_text_round_trips_and_special_tokens_have_their_places():
    model, tokenizer = small()
    assert [
        tokenizer.convert_tokens_to_ids(t) for t in ("<pad>", "<bos>", "<eos>", "<user>", "<assistant>")
    ] == [*range(5)]
    text = "Žluťoučký kůň 馬\n\t 'x' 🐎"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert max(ids) < model.config.vocab_size
    assert len(tokenizer("the harbour opens", add_special_tokens=False).input_ids) < 12, "merges were learned"


def test_A1_chat_template_has_one_bos_and_plain_text_too():
    _, tokenizer = small()
    rendered = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(rendered, add_special_tokens=False).input_ids
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[-1] == tokenizer.convert_tokens_to_ids("<assistant>")
    assert tokenizer("hello").input_ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("make", ["bytes", "words"])
def test_A10_generation_markers_cover_what_the_assistant_says_and_its_end(make: str):
    if make == "bytes":
        _, tokenizer = small()
    else:
        _, tokenizer = word_model(WORDS, seed=0, hidden=16, heads=2)
    out = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    said = [i for i, m in zip(out["input_ids"], out["assistant_masks"], strict=True) if m]
    assert said[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(said[:-1]).strip() == "at nine"


@pytest.mark.parametrize("make", ["bytes", "words"])
def test_A3_generation_prompt_is_a_prefix_of_the_whole_chat(make: str):
    if make == "bytes":
        _, tokenizer = small()
    else:
        _, tokenizer = word_model(WORDS, seed=0, hidden=16, heads=2)

    def ids(messages: list[dict[str, str]], *, prompt: bool) -> list[int]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        return tokenizer(text, add_special_tokens=False).input_ids

    prompt, whole = ids(CHAT[:1], prompt=True), ids(CHAT[:2], prompt=False)
    assert whole[: len(prompt)] == prompt


def test_unknown_role_is_an_error():
    _, tokenizer = small()
    with pytest.raises(Exception, match="system, user and assistant, not tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_word_model_knows_its_words_in_order_and_no_other():
    model, tokenizer = word_model(["north", "south", "north"], seed=0, hidden=16, heads=2)
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary, key=vocabulary.__getitem__) == [
        *("<pad>", "<bos>", "<eos>", "<user>", "<bot>", "north", "south")
    ]
    assert model.config.vocab_size == 7
    assert tokenizer("<user> south <bot> north <eos>").input_ids == [1, 3, 6, 4, 5, 2]
    assert tokenizer.decode([6, 5]) == "south north"
    with pytest.raises(Exception, match="UNK"):
        tokenizer("east")


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: word_model(["two words"], seed=0), "two words"),
        (lambda: tiny_model(TEXTS, seed=0, vocab_size=100), "261"),
        (lambda: tiny_model(TEXTS, seed=0, hidden=30, heads=4), "multiple of 8"),
    ],
)
def test_impossible_sizes_are_explained(call, message: str):
    with pytest.raises(TastemakerError, match=message):
        call()


def test_saved_folder_is_plain_hugging_face(tmp_path: Path):
    model, tokenizer = small()
    save_model(model, tokenizer, tmp_path / "m")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    back_tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert model_hash(back) == model_hash(model)
    assert back.get_input_embeddings().weight is back.get_output_embeddings().weight
    assert back_tokenizer.chat_template == tokenizer.chat_template
    assert back_tokenizer("the harbour").input_ids == tokenizer("the harbour").input_ids
    assert back.generation_config.eos_token_id == tokenizer.eos_token_id
    assert back.generation_config.pad_token_id == tokenizer.pad_token_id
