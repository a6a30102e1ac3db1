"""Loading models: Hugging Face folders and names, our runs, LoRA adapters, reward models, models in memory.

Weights are read from safetensors alone (other formats can run code when opened), code that comes with a
model runs only when asked for, and whatever is loaded carries a hash of its weights.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import is_offline_mode, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tastemaker.errors import TastemakerError
from tastemaker.models.adapters import CONFIG_FILE as ADAPTER_CONFIG
from tastemaker.models.adapters import Adapter, adapter_hash, read_adapter
from tastemaker.models.heads import WEIGHTS_FILE as HEAD_WEIGHTS
from tastemaker.models.heads import Head, head_from, load_head
from tastemaker.models.weights import backbone_hash, cast_weights, combined_hash, model_hash, quiet, reward_hash

NOTE_FILE = "tastemaker.json"
"""Beside an adapter: {"base_weights_hash": hash of the weights it was trained over}."""
UNSAFE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".ckpt"})
_WHOLE_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model as it was found."""

    model: PreTrainedModel
    """Full weights. Where `adapter` is set, the base model it belongs on."""
    tokenizer: PreTrainedTokenizerBase
    name: str
    weights_hash: str
    """SHA-256 of all that makes this model: weights, adapter, head."""
    base_hash: str
    """SHA-256 of `model`'s weights alone."""
    location: str | None
    """Folder or hub name this can be loaded from again; None for a model in memory."""
    base_location: str | None = None
    """The same for `model` alone, where `adapter` is set."""
    adapter: Adapter | None = None
    head: Head | None = None
    """Reward head, where this is a reward model."""


Source = str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase] | LoadedModel
"""Where a model comes from: a folder, a hub name, a run folder, (model, tokenizer), or one loaded before."""


def load_causal(
    source: Source,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    base: LoadedModel | None = None,
) -> LoadedModel:
    """Loads a causal language model, with its adapter or reward head where it has one.

    `dtype` and `device` None leave the weights as they are stored (on the CPU); the hash is of the stored
    weights either way. A model in memory is returned itself, not a copy, so these two change it.
    `base`: a model already loaded, used instead of loading the same weights again when `source` is an
    adapter over them.

    Raises TastemakerError for an absent folder, weights not in safetensors, missing weights (which
    transformers would fill at random), a tokenizer that outgrew the embeddings, or an adapter whose base
    model has changed since.
    """
    if isinstance(source, LoadedModel):
        found = source
    elif isinstance(source, tuple):
        found = _in_memory(*source)
    elif not isinstance(source, str | Path):
        raise TastemakerError(
            f"a {type(source).__name__} alone is no model; give (model, tokenizer), a folder, a run or a name"
        )
    else:
        folder, location = locate(source, revision=revision, trust_remote_code=trust_remote_code)
        found = _from_folder(folder, location, trust_remote_code=trust_remote_code, base=base)
    _check_vocabulary(found)
    if dtype is not None:
        cast_weights(found.model, dtype)
    if device is not None:
        found.model.to(cast(Any, device))
    return found


# ------------------------------------------------------------------------------------------- where


def locate(
    source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False, weights: bool = True
) -> tuple[Path, str]:
    """(folder on this machine, the name it goes by). A run folder gives its `model/`; a hub name is
    fetched, or looked up in the cache alone when offline; without `weights` only its small files are.
    """
    text = str(source)
    path = Path(text).expanduser()
    if path.is_dir():
        if (path / "run.json").exists():
            if not (path / "model").is_dir():
                raise TastemakerError(
                    f"{path}: this run has no model yet. Finish it by starting it again with the same command; "
                    "it continues where it stopped."
                )
            path = path / "model"
        return path, str(path.resolve())
    if path.exists():
        raise TastemakerError(f"{path}: a file, but a model is a folder with config.json and *.safetensors.")
    if isinstance(source, Path) or not re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", text):
        raise TastemakerError(
            f"{path}: there is no such folder. Check the path (it is read from {Path.cwd()})."
        )
    return _fetch(text, revision=revision, trust_remote_code=trust_remote_code, weights=weights), text


def _fetch(name: str, *, revision: str | None, trust_remote_code: bool, weights: bool = True) -> Path:
    if trust_remote_code and not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise TastemakerError(
            f"{name}: trust_remote_code runs whatever code the repository holds at that moment. Pin it with a "
            "full 40-digit revision whose code you have read."
        )
    offline = is_offline_mode()
    wanted = [p for p in _WHOLE_FILES if weights or p != "*.safetensors"]
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            local_files_only=offline,
            allow_patterns=wanted + (["*.py"] if trust_remote_code else []),
            ignore_patterns=["*/*"],
        )
    except LocalEntryNotFoundError as error:
        state = "this machine is set offline" if offline else "the hub cannot be reached"
        raise TastemakerError(
            f"{name}: no folder of that name here, not in the local cache, and {state}. Give the path of a "
            "model folder, or fetch the model once while online (`hf download`)."
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise TastemakerError(
            f"{name}: neither a folder here nor a model that could be fetched from the hub "
            f"({str(error).splitlines()[0]}). Check the name; for a gated model log in first (`hf auth login`)."
        ) from error
    return Path(folder)


# ------------------------------------------------------------------------------------------- reading


def _in_memory(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LoadedModel:
    if isinstance(model, PeftModel) or getattr(model, "peft_config", None):
        raise TastemakerError(
            "The model given in memory carries a peft adapter. Save it with save_pretrained and give the "
            "folder, or merge it first (merge_and_unload)."
        )
    digest = model_hash(model)
    # The name is for people only: a model changed in memory is never loaded again by its name.
    return LoadedModel(model, tokenizer, f"{type(model).__name__} in memory", digest, digest, None)


def _from_folder(folder: Path, name: str, *, trust_remote_code: bool, base: LoadedModel | None) -> LoadedModel:
    if (folder / ADAPTER_CONFIG).exists():
        return _adapter_folder(folder, name, trust_remote_code=trust_remote_code, base=base)
    if not (folder / "config.json").exists():
        raise TastemakerError(
            f"{folder}: neither config.json nor {ADAPTER_CONFIG} is in it, so it holds no model."
        )
    require_safetensors(folder)
    head = load_head(folder)
    architectures = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or [
        ""
    ]
    classifier = str(architectures[0]).endswith("ForSequenceClassification")
    if head is None and classifier:
        head = _classifier_head(folder)
    with quiet():
        try:
            result = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype="auto",
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise TastemakerError(f"{folder}: the model cannot be read: {_first_line(error)}") from error
    model, info = cast(tuple[PreTrainedModel, dict[str, Any]], result)
    _check_missing(folder, model, set(info["missing_keys"]), classifier=classifier)
    model.eval()
    whole = model_hash(model)
    digest = whole if head is None else reward_hash(backbone_hash(model), head)
    return LoadedModel(model, load_tokenizer(folder, trust_remote_code), name, digest, whole, name, head=head)


def _adapter_folder(
    folder: Path, name: str, *, trust_remote_code: bool, base: LoadedModel | None
) -> LoadedModel:
    adapter = read_adapter(folder)
    note = folder / NOTE_FILE
    expected = json.loads(note.read_text(encoding="utf-8")).get("base_weights_hash") if note.exists() else None
    own = folder / "base"
    where = str(own) if own.is_dir() else str(adapter.config.base_model_name_or_path or "")
    if not where:
        raise TastemakerError(
            f"{folder / ADAPTER_CONFIG}: base_model_name_or_path is empty; write the base's path."
        )
    if base is None or base.base_hash != expected:
        try:
            found = load_causal(where, trust_remote_code=trust_remote_code)
        except TastemakerError as error:
            raise TastemakerError(f"{folder}: an adapter whose base model cannot be loaded. {error}") from error
        if found.adapter is not None:
            raise TastemakerError(f"{where}: the base of {folder} must be a full model, not another adapter.")
        if base is None or base.base_hash != found.base_hash:
            base = found
    if expected is not None and base.base_hash != expected:
        raise TastemakerError(
            f"{folder}: it was trained over weights with hash {expected[:12]}, but {where} now has "
            f"{base.base_hash[:12]}. Restore the base model it was trained on."
        )
    head = load_head(folder)
    if head is None and adapter.score is not None:
        head = _scalar_head(adapter.score, folder)
    digest = combined_hash(base.base_hash, adapter_hash(adapter))
    if head is not None:
        digest = reward_hash(digest, head)
    has_tokenizer = (folder / "tokenizer_config.json").exists()
    tokenizer = load_tokenizer(folder, trust_remote_code) if has_tokenizer else base.tokenizer
    return LoadedModel(
        model=base.model,
        tokenizer=tokenizer,
        name=name,
        weights_hash=digest,
        base_hash=base.base_hash,
        location=name,
        base_location=base.base_location if base.adapter is not None else base.location,
        adapter=adapter,
        head=head,
    )


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer saved in `folder`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise TastemakerError(
            f"{folder}: no tokenizer can be read from it ({_first_line(error)}). Save the tokenizer beside the "
            "model (tokenizer.save_pretrained)."
        ) from error
    return cast(PreTrainedTokenizerBase, tokenizer)


def require_safetensors(folder: Path) -> None:
    """Raises TastemakerError where `folder` has no weights in safetensors."""
    if any(p.name != HEAD_WEIGHTS for p in folder.glob("*.safetensors")):
        return
    unsafe = sorted(p.name for p in folder.iterdir() if p.suffix in UNSAFE_SUFFIXES)
    if unsafe:
        raise TastemakerError(
            f"{folder}: its weights are only in {', '.join(unsafe[:3])}, a format that can run code when it is "
            "opened, so it is refused. Load it once where you trust it and save it again "
            "(model.save_pretrained writes safetensors)."
        )
    raise TastemakerError(f"{folder}: it has a config.json but no weights (*.safetensors).")


def _check_missing(folder: Path, model: PreTrainedModel, missing: set[str], *, classifier: bool) -> None:
    output = cast(nn.Module | None, model.get_output_embeddings())
    prefix = next((name for name, m in model.named_modules() if m is output), "")
    if classifier and output is not None:
        # A reward model never uses its output head; it gets fixed numbers so that nothing depends on chance.
        gone = {name for name in missing if name.startswith(f"{prefix}.")}
        missing -= gone
        std = float(getattr(model.config, "initializer_range", 0.02))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name in sorted(gone):
                parameter = model.get_parameter(name)
                parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
    if missing:
        raise TastemakerError(
            f"{folder}: {len(missing)} weights are missing (first: {min(missing)}); transformers would fill "
            "them at random. Copy the whole folder again."
        )


def _classifier_head(folder: Path) -> Head:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            names = opened.keys()  # no mapping: it knows no `in` itself
            if "score.weight" in names:
                return _scalar_head(opened.get_tensor("score.weight"), folder)
    raise TastemakerError(
        f"{folder}: a sequence classifier without score.weight. Only reward models whose head is one linear "
        "layer named `score` (as in Llama, Qwen, Mistral, Gemma, GPT-2) can be read."
    )


def _scalar_head(weight: Tensor, folder: Path) -> Head:
    if weight.shape[0] != 1:
        raise TastemakerError(
            f"{folder}: score.weight has {weight.shape[0]} outputs, but a reward model has one (num_labels=1)."
        )
    return head_from({"weight": weight}, "last")


def _check_vocabulary(found: LoadedModel) -> None:
    rows = cast(Any, found.model.get_input_embeddings()).weight.shape[0]
    highest = max(found.tokenizer.get_vocab().values(), default=-1)
    grown = found.adapter is not None and bool(found.adapter.config.modules_to_save)
    if highest >= rows and not grown:
        raise TastemakerError(
            f"{found.name}: the tokenizer knows ids up to {highest}, but the model embeds only {rows} tokens. "
            "After adding tokens call model.resize_token_embeddings(len(tokenizer)) and save again; with LoRA "
            "name the embeddings in modules_to_save, or the new rows are never trained."
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
