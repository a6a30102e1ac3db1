"""A model's tokenizer without its weights: all that reading data token by token needs."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tastemaker.errors import TastemakerError
from tastemaker.models.adapters import CONFIG_FILE as ADAPTER_CONFIG
from tastemaker.models.load import load_tokenizer, locate

_FILES = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model")


def tokenizer_of(
    source: str | Path, *, trust_remote_code: bool = False, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer that training from `source` would use: a folder, a run, a LoRA adapter (its own, else its
    base's) or a hub name, of which only the small files are fetched.

    Raises TastemakerError where there is no model, or none with a tokenizer.
    """
    folder, _ = locate(source, revision=revision, trust_remote_code=trust_remote_code, weights=False)
    if any((folder / name).exists() for name in _FILES):
        return load_tokenizer(folder, trust_remote_code)
    if (folder / ADAPTER_CONFIG).exists():
        return tokenizer_of(_base_of(folder), trust_remote_code=trust_remote_code)
    if not (folder / "config.json").exists():
        raise TastemakerError(
            f"{folder}: neither config.json nor {ADAPTER_CONFIG} is in it, so it holds no model."
        )
    return load_tokenizer(folder, trust_remote_code)


def _base_of(folder: Path) -> str:
    """The model that an adapter belongs on."""
    if (folder / "base").is_dir():
        return str(folder / "base")
    file = folder / ADAPTER_CONFIG
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise TastemakerError(f"{file}: cannot be read: {error}.") from error
    if not base or Path(str(base)).expanduser().resolve() == folder.resolve():
        raise TastemakerError(f"{file}: base_model_name_or_path is empty; write the base's path.")
    return str(base)
