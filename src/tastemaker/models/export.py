"""Saving models so that transformers, peft, vLLM and TRL load them: plain folders, safetensors only.

A folder appears whole or not at all: it is written under another name first and renamed.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from tastemaker.errors import TastemakerError
from tastemaker.models.adapters import Adapter, extract, merge, with_score, write_adapter
from tastemaker.models.assemble import Slot
from tastemaker.models.heads import Head, ScalarHead, save_head
from tastemaker.models.load import NOTE_FILE, LoadedModel, Source, load_causal
from tastemaker.models.weights import backbone_hash, model_hash, quiet, reward_hash


def save_role(slot: Slot, folder: Path, *, overwrite: bool = False) -> None:
    """Writes a role: full weights as a model folder, an adapter as a peft folder. See `save_loaded`."""
    source = slot.source
    if slot.adapter is not None:
        adapter = extract(cast(Any, slot.backbone.model), slot.adapter)
        base = source.location if source.adapter is None else source.base_location
        held = replace(source, adapter=adapter, base_location=base, head=slot.head)
        save_loaded(held, folder, overwrite=overwrite)
    elif slot.trained:
        held = replace(source, model=cast(PreTrainedModel, slot.backbone.model), adapter=None, head=slot.head)
        save_loaded(held, folder, overwrite=overwrite)
    else:
        raise TastemakerError(
            f"{source.name}: this role is not trained here, so there is nothing new to save. Copy the folder "
            "it came from, or export that."
        )


def save_loaded(loaded: LoadedModel, folder: Path, *, overwrite: bool = False) -> None:
    """Writes a model as a plain Hugging Face folder: weights, tokenizer, chat template, generation config.

    With an adapter: a peft folder whose base is named by path or hub name, or lies in `base/` where the base
    was a model in memory. With a last-token reward head: a sequence-classification model (or adapter) with
    num_labels=1, and our own `head.safetensors`; a per-token head has no such form, so it is our own file
    beside the backbone.

    Raises TastemakerError where the folder is there already and `overwrite` is not set.
    """
    with _replacing(folder, overwrite=overwrite) as target:
        tokenizer = loaded.tokenizer
        if loaded.head is not None:
            save_head(loaded.head, target)
            tokenizer = _with_safe_padding(tokenizer)
        if loaded.adapter is not None:
            _save_adapter(loaded, loaded.adapter, target, folder)
        elif loaded.head is None or not _save_classifier(loaded.model, tokenizer, loaded.head, target):
            _save_causal(loaded.model, tokenizer, target)
        tokenizer.save_pretrained(target)


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path, *, overwrite: bool = False
) -> None:
    """Writes a model held in memory as a plain Hugging Face folder."""
    digest = model_hash(model)
    loaded = LoadedModel(model, tokenizer, str(folder), digest, digest, None)
    save_loaded(loaded, Path(folder), overwrite=overwrite)


def merged(source: Source, *, trust_remote_code: bool = False) -> LoadedModel:
    """A full model out of an adapter and its base, merged in a copy: the base keeps its hash. Without an
    adapter, the model as it is.
    """
    loaded = load_causal(source, trust_remote_code=trust_remote_code)
    if loaded.adapter is None:
        return loaded
    model = merge(loaded.model, loaded.adapter)
    whole = model_hash(model)
    digest = whole if loaded.head is None else reward_hash(backbone_hash(model), loaded.head)
    return replace(
        loaded,
        model=model,
        adapter=None,
        weights_hash=digest,
        base_hash=whole,
        location=None,
        base_location=None,
    )


def export_model(
    source: Source,
    folder: str | Path,
    *,
    merge_adapter: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> None:
    """Writes any source (run, folder, name) as a folder of its own; `merge_adapter` makes one full model of
    an adapter and its base.
    """
    read = merged if merge_adapter else load_causal
    save_loaded(read(source, trust_remote_code=trust_remote_code), Path(folder), overwrite=overwrite)


def stop_tokens(model: object, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end a response, ascending: the tokenizer's end token and the generation config's."""
    found: set[int] = set()
    for holder in (tokenizer, getattr(model, "generation_config", None)):
        ids = cast("int | Iterable[int] | None", getattr(holder, "eos_token_id", None))
        if ids is not None:
            found.update([ids] if isinstance(ids, int) else ids)
    return tuple(sorted(found))


# ------------------------------------------------------------------------------------------- kinds


def _save_causal(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, target: Path) -> None:
    with quiet():
        model.save_pretrained(target)
    _save_generation_config(model, tokenizer, target)


def _save_generation_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, target: Path) -> None:
    generation: Any = copy.deepcopy(model.generation_config)
    if generation is None:
        return
    stops = stop_tokens(model, tokenizer)
    generation.eos_token_id = list(stops) if len(stops) > 1 else next(iter(stops), None)
    if generation.pad_token_id is None:
        pad = cast("int | None", tokenizer.pad_token_id)
        generation.pad_token_id = pad if pad is not None else next(iter(stops), None)
    generation.save_pretrained(target)


def _save_classifier(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, head: Head, target: Path
) -> bool:
    """Saves backbone and head as one sequence classifier; False where the family has none that fits."""
    if not isinstance(head, ScalarHead) or head.bias is not None:
        return False
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    config.get_text_config().pad_token_id = tokenizer.pad_token_id
    weights = model.state_dict()
    try:
        with torch.device("meta"), quiet():
            classifier = cast(
                PreTrainedModel,
                AutoModelForSequenceClassification.from_config(config, attn_implementation="eager"),
            )
    except ValueError:
        return False
    expected = set(classifier.state_dict())
    weights["score.weight"] = head.weight.detach().to(device=model.device, dtype=model.dtype)
    if not expected <= set(weights):
        return False
    classifier.load_state_dict({name: weights[name] for name in expected}, assign=True)
    with quiet():
        classifier.save_pretrained(target)
    return True


def _save_adapter(loaded: LoadedModel, adapter: Adapter, target: Path, final: Path) -> None:
    location = loaded.base_location
    if location is None:
        if model_hash(loaded.model) != loaded.base_hash:
            raise TastemakerError(
                "The model given in memory has changed since the run started, so the adapter's base can no "
                "longer be saved. Save the base model to a folder first and start the run from there."
            )
        (target / "base").mkdir()
        _save_causal(loaded.model, loaded.tokenizer, target / "base")
        loaded.tokenizer.save_pretrained(target / "base")
        location = str(final.resolve() / "base")
    if isinstance(loaded.head, ScalarHead) and loaded.head.bias is None:
        adapter = with_score(adapter, loaded.head.weight)
    write_adapter(adapter, target, base=location)
    note = json.dumps({"base_weights_hash": loaded.base_hash}, indent=2)
    (target / NOTE_FILE).write_text(note + "\n", encoding="utf-8")


def _with_safe_padding(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer that pads with a token no response ends with. transformers finds the last token of a row
    by skipping pad tokens, so where padding is the end token it reads the score one token early.
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return tokenizer
    other = next(
        (t for t in (tokenizer.bos_token, tokenizer.unk_token) if t and t != tokenizer.eos_token), None
    )
    if other is None and tokenizer.pad_token_id is not None:
        return tokenizer
    changed = copy.deepcopy(tokenizer)
    changed.pad_token = other if other is not None else tokenizer.eos_token
    return changed


@contextmanager
def _replacing(folder: Path, *, overwrite: bool) -> Generator[Path]:
    """A new folder beside `folder` that takes its place when all went well, and is gone when not."""
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise TastemakerError(
            f"{folder}: something is there already. Choose another folder, or ask to overwrite it."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield target
        target.chmod(0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            folder.rename(old / "old")
            target.rename(folder)
            shutil.rmtree(old)
        else:
            target.rename(folder)
    except OSError as error:
        raise TastemakerError(
            f"{folder}: the model could not be saved ({error}). Nothing was left behind; make room or choose "
            "another folder, and start again."
        ) from error
    finally:
        shutil.rmtree(target, ignore_errors=True)
