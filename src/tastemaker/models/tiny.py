"""Small random Llama models with a tokenizer made from the user's own texts.

`tiny_model` lets a pipeline be rehearsed on real records before a large model is rented; `word_model` is
the model of the embedded town. Both are plain Hugging Face models: saved and loaded like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tastemaker.errors import TastemakerError

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"

# A system message has no token of its own in so small a vocabulary, so it reads as a user turn. The
# generation markers name what an assistant says, its end token included: what multi-turn training may learn.
_CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
  {%- if message['role'] == 'assistant' -%}
    {{- '@ASSISTANT@' -}}
    {%- generation -%}{{- message['content'] + '@SPACE@' + eos_token -}}{%- endgeneration -%}
  {%- elif message['role'] in ['user', 'system'] -%}
    {{- '@USER@' + message['content'] + '@SPACE@' -}}
  {%- else -%}
    {{- raise_exception('this template knows system, user and assistant, not ' + message['role']) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '@ASSISTANT@' -}}{%- endif -%}
"""


def _template(user: str, assistant: str, *, spaced: bool) -> str:
    # A generation span must start on a token, so the space before it stays outside.
    space = " " if spaced else ""
    filled = _CHAT_TEMPLATE.replace("@USER@", user + space).replace("@ASSISTANT@", assistant + space)
    return filled.replace("@SPACE@", space)


def _finish(
    tokenizer: Tokenizer, max_length: int, specials: Sequence[str], template: str
) -> PreTrainedTokenizerFast:
    """Wraps a trained tokenizer: plain text starts with one <bos>, as with Llama's own tokenizers."""
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=list(specials),
        chat_template=template,
        model_max_length=max_length,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def _llama(
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    hidden: int,
    layers: int,
    heads: int,
    max_length: int,
    initializer_range: float,
) -> LlamaForCausalLM:
    if hidden % (2 * heads):
        raise TastemakerError(
            f"hidden={hidden} and heads={heads}: every head needs an even width; make hidden a multiple of "
            f"{2 * heads}."
        )
    ids = tokenizer.get_vocab()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 5 // 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        initializer_range=initializer_range,
        pad_token_id=ids[PAD],
        bos_token_id=ids[BOS],
        eos_token_id=ids[EOS],
        dtype="float32",
    )
    # Weights are drawn from `seed` alone, and the caller's random state is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config.pad_token_id = config.pad_token_id
    return model.eval()


def tiny_model(
    texts: Iterable[str],
    *,
    seed: int,
    vocab_size: int = 2048,
    hidden: int = 128,
    layers: int = 2,
    heads: int = 4,
    max_length: int = 2048,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A random Llama (tied embeddings) and a byte-level BPE tokenizer trained on `texts`.

    Any text can be encoded. Tokens 0 to 4 are <pad> <bos> <eos> <user> <assistant>; the chat template
    marks what the assistant says. The same texts, seed and sizes give the same tokenizer and weights.
    `vocab_size` is an upper bound and at least 261 (256 bytes and five special tokens).
    """
    specials = [PAD, BOS, EOS, "<user>", "<assistant>"]
    alphabet = sorted(ByteLevel.alphabet())
    if vocab_size < len(alphabet) + len(specials):
        raise TastemakerError(f"vocab_size={vocab_size}: at least {len(alphabet) + len(specials)} are needed.")
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = BpeTrainer(
        vocab_size=vocab_size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    template = _template("<user>", "<assistant>", spaced=False)
    wrapped = _finish(tokenizer, max_length, specials[3:], template)
    model = _llama(
        wrapped,
        seed=seed,
        hidden=hidden,
        layers=layers,
        heads=heads,
        max_length=max_length,
        initializer_range=0.02,
    )
    return model, wrapped


def word_model(
    words: Sequence[str],
    *,
    seed: int,
    hidden: int = 128,
    layers: int = 2,
    heads: int = 4,
    max_length: int = 128,
    initializer_range: float = 0.05,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A random Llama (tied embeddings) over whole words, separated by white space.

    Tokens 0 to 4 are <pad> <bos> <eos> <user> <bot>; `words` follow in the order given, repeats dropped.
    There is no unknown token: a text with any other word raises when it is encoded.
    """
    specials = [PAD, BOS, EOS, "<user>", "<bot>"]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*specials, *words]))}
    spaced = [word for word in vocabulary if not word or word.split() != [word]]
    if spaced:
        raise TastemakerError(f"words: {spaced[0]!r} is empty or holds white space, so it is not one word.")
    tokenizer = Tokenizer(WordLevel(vocabulary))
    tokenizer.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    template = _template("<user>", "<bot>", spaced=True)
    wrapped = _finish(tokenizer, max_length, specials[3:], template)
    model = _llama(
        wrapped,
        seed=seed,
        hidden=hidden,
        layers=layers,
        heads=heads,
        max_length=max_length,
        initializer_range=initializer_range,
    )
    return model, wrapped
