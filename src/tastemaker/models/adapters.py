"""LoRA adapters by peft: one backbone, several roles.

Every role's adapter stays loaded side by side, and `AdapterSwitch` chooses which one computes. peft's own
`set_adapter` also flips `requires_grad` of every adapter, which silently drops the gradients of the other
role when policy and value share a step; the switch here changes what computes and nothing else.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import (
    LoraConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tastemaker.models.weights import cast_weights, tensors_hash, tied_output
from tastemaker.types import Role, TastemakerError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
SCORE = "base_model.model.score.weight"

# peft finds an adapter's tensors by `.<name>.` inside their names, so a bare "value" would also match a
# model's own `attention.value` projection.
ADAPTER_NAMES: dict[Role, str] = {
    "policy": "policy_adapter",
    "reference": "reference_adapter",
    "reward": "reward_adapter",
    "value": "value_adapter",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """Which low-rank update to train. `dropout` is accepted and stays off, as all dropout does here."""

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    modules_to_save: tuple[str, ...] = ()
    """Modules trained in full and saved with the adapter, e.g. ("embed_tokens",) after adding tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A LoRA adapter apart from any model: its configuration and tensors, named as peft's files name them."""

    config: LoraConfig
    tensors: dict[str, Tensor]
    score: Tensor | None = None
    """[1, d] reward head that peft stored with a sequence-classification adapter."""


AnyModel = PreTrainedModel | PeftModel


def lora_config(settings: LoraSettings, model: PreTrainedModel) -> LoraConfig:
    """The peft configuration for a fresh adapter on `model`."""
    touched = [*settings.modules_to_save]
    if not isinstance(settings.target_modules, str):
        touched += settings.target_modules
    embeddings = {"embed_tokens", "lm_head", "wte", "embed_in", "embed_out"}
    targets = settings.target_modules
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=settings.r,
        lora_alpha=cast(int, settings.alpha),
        lora_dropout=0.0,
        target_modules=targets if isinstance(targets, str) else list(targets),
        modules_to_save=list(settings.modules_to_save) or None,
        # Without this an embedding trained beside a tied output head would part from it unnoticed.
        ensure_weight_tying=tied_output(model) and any(name.split(".")[-1] in embeddings for name in touched),
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),
    )


def _matched(model: nn.Module, targets: str | Sequence[str] | None) -> set[str]:
    """Names of the modules that `targets` selects, by peft's rules."""
    linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    if targets == "all-linear":
        output = cast(Any, model).get_output_embeddings()
        return {n for n in linear if model.get_submodule(n) is not output}
    names = {n for n, _ in model.named_modules()}
    if isinstance(targets, str):
        return {n for n in names if re.fullmatch(targets, n)}
    return {n for n in names for t in targets or () if n == t or n.endswith(f".{t}")}


def check_same_settings(asked: LoraSettings, adapter: Adapter, model: PreTrainedModel, name: str) -> None:
    """Raises TastemakerError where `asked` describes another adapter than the one a run starts from."""
    config = adapter.config
    differ = [
        f"{field}: asked {ours}, the adapter has {theirs}"
        for field, ours, theirs in (("r", asked.r, config.r), ("alpha", asked.alpha, config.lora_alpha))
        if ours != theirs
    ]
    if _matched(model, asked.target_modules) != _matched(model, cast(Any, config.target_modules)):
        differ.append(f"target_modules: asked {asked.target_modules}, the adapter has {config.target_modules}")
    saved = set(config.modules_to_save or ())
    if asked.modules_to_save and not set(asked.modules_to_save) <= saved:
        differ.append(f"modules_to_save: asked {asked.modules_to_save}, the adapter has {sorted(saved)}")
    if differ:
        raise TastemakerError(
            f"{name}: a run that starts from a LoRA adapter continues it, but the LoRA settings differ "
            f"({'; '.join(differ)}). Leave the LoRA settings out or make them equal; for a new adapter on top, "
            "merge this one into its base first (`tastemaker export --merge`) and start from the merged model."
        )


def attach(model: AnyModel, name: str, source: LoraConfig | Adapter, *, seed: int = 0) -> PeftModel:
    """Adds adapter `name` to `model` (in place) and returns the peft model. A LoraConfig gives a fresh
    adapter, an update of exactly zero whose A is drawn from `seed`; an Adapter is copied in, exactly.
    """
    config = copy.deepcopy(source.config if isinstance(source, Adapter) else source)
    config.inference_mode = False
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # peft asks transformers for a name it has since changed
            warnings.filterwarnings("ignore", category=FutureWarning)
            torch.default_generator.manual_seed(seed)
            if isinstance(model, PeftModel):
                model.add_adapter(name, config, autocast_adapter_dtype=False)
            else:
                model = cast(PeftModel, get_peft_model(model, config, name, autocast_adapter_dtype=False))
    except ValueError as error:
        raise TastemakerError(
            f"LoRA cannot be put on this model: {error} Name modules that exist, e.g. "
            "--lora-target-modules all-linear."
        ) from error
    # Adapters are trained, so they are kept in full precision over a half-precision base.
    for parameter in adapter_parameters(model, name).values():
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    if isinstance(source, Adapter):
        result = set_peft_model_state_dict(model, _own_tensors(source, model), adapter_name=name)
        missing = [key for key in result.missing_keys if f".{name}." in key or key.endswith(f".{name}")]
        if result.unexpected_keys or missing:
            raise TastemakerError(
                f"The adapter does not fit this model: {len(missing)} tensors are missing and "
                f"{len(result.unexpected_keys)} have no place, e.g. {[*missing, *result.unexpected_keys][0]}. "
                "Load it over the base model it was trained on."
            )
    return model


def _own_tensors(adapter: Adapter, model: PeftModel) -> dict[str, Tensor]:
    """The adapter's tensors without the copies of base embeddings that peft may store beside them: loaded,
    they would overwrite the backbone under every role.
    """
    wrapped = tuple(f"{n}." for n, m in model.named_modules() if isinstance(m, AuxiliaryTrainingWrapper))
    own = {k: t for k, t in adapter.tensors.items() if "lora_" in k or k.startswith(wrapped)}
    if len(own) < len(adapter.tensors):
        base = {
            name.replace(".base_layer", "").replace(".original_module", ""): tensor
            for name, tensor in model.get_base_model().state_dict().items()
        }
        for key in adapter.tensors.keys() - own.keys():
            held = base.get(key.removeprefix("base_model.model.").replace(".base_layer", ""))
            if held is None or not torch.equal(held, adapter.tensors[key].to(held)):
                raise TastemakerError(
                    f"The adapter brings other weights for its base ({key}), as after adding tokens without "
                    "modules_to_save. Merge it into its base model with peft and pass the merged model."
                )
    return own


def adapter_parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """The parameters of adapter `name`, by name, tied ones once."""
    return {n: p for n, p in model.named_parameters() if f".{name}." in n or n.endswith(f".{name}")}


def extract(model: PeftModel, name: str) -> Adapter:
    """A copy of adapter `name` as it stands, on the CPU."""
    found = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    tensors = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in found.items()}
    return Adapter(copy.deepcopy(cast(LoraConfig, model.peft_config[name])), tensors)


class AdapterSwitch:
    """Chooses which adapter of `model` computes; made after all of its adapters are attached.

    Relies on peft's private `_active_adapter` and `_disable_adapters`, since the public switch changes
    `requires_grad` too; a test holds that gradients equal those of single-adapter runs.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers: list[Any] = [
            m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)
        ]

    @contextmanager
    def use(self, name: str | None) -> Generator[None]:
        """Inside, adapter `name` computes (None: the bare base model). What was active returns on exit,
        after an exception too.
        """
        before = [(layer._active_adapter, layer._disable_adapters) for layer in self._layers]
        try:
            for layer in self._layers:
                layer._disable_adapters = name is None
                if name is not None:
                    layer._active_adapter = [name]
            yield
        finally:
            for layer, (active, disabled) in zip(self._layers, before, strict=True):
                layer._active_adapter, layer._disable_adapters = active, disabled


@contextmanager
def role_adapter(model: nn.Module, name: str | None) -> Generator[None]:
    """`AdapterSwitch(model).use(name)` for a single use."""
    with AdapterSwitch(model).use(name):
        yield


def merge(base: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """A full model with `adapter` merged in, made of a copy: `base` keeps its weights bit for bit.

    The update is added in float32 (float64 for float64) and rounded once to the base's dtype.
    """
    duplicate = copy.deepcopy(base)
    dtype = duplicate.dtype
    cast_weights(duplicate, torch.promote_types(dtype, torch.float32))
    output, tied = cast(Any, duplicate.get_output_embeddings()), tied_output(duplicate)
    if tied:  # one weight under two adapted modules would take the update twice
        output.weight = nn.Parameter(output.weight.detach().clone())
    attached = attach(duplicate, "merging", adapter)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings")
        merged = cast(PreTrainedModel, cast(Any, attached).merge_and_unload(safe_merge=True))
    if tied:
        embedding, output = cast(Any, merged.get_input_embeddings()), cast(Any, merged.get_output_embeddings())
        merged.config.get_text_config().tie_word_embeddings = torch.equal(embedding.weight, output.weight)
        if merged.config.get_text_config().tie_word_embeddings:
            output.weight = embedding.weight
    cast_weights(merged, dtype)
    return merged.requires_grad_(False).eval()


def adapter_hash(adapter: Adapter) -> str:
    """SHA-256 over the adapter's scaling settings and its tensors' names, dtypes, shapes and bytes."""
    config = adapter.config
    scaling = {
        field: getattr(config, field, None)
        for field in ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
    }
    digest = hashlib.sha256(json.dumps(scaling, sort_keys=True).encode())
    digest.update(tensors_hash(adapter.tensors).encode())
    return digest.hexdigest()


def read_adapter(folder: Path) -> Adapter:
    """The LoRA adapter in `folder`: peft's files, safetensors only."""
    weights = folder / WEIGHTS_FILE
    if not weights.exists():
        others = sorted(p.name for p in folder.glob("*") if p.suffix in {".bin", ".pt", ".pth"})
        raise TastemakerError(
            f"{folder}: no {WEIGHTS_FILE}"
            + (f", only {', '.join(others)}, whose format can run code when it is opened" if others else "")
            + ". Save the adapter again with safetensors (save_pretrained does)."
        )
    try:
        fields = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if str(fields.get("peft_type")) != "LORA":
            raise TastemakerError(
                f"{folder / CONFIG_FILE}: peft_type {fields.get('peft_type')!r} is not supported, only LORA. "
                "Merge it into its base model with peft's merge_and_unload and pass the merged model."
            )
        config = cast(LoraConfig, LoraConfig.from_pretrained(str(folder)))
        tensors = load_file(weights)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise TastemakerError(
            f"{folder}: the adapter cannot be read ({error}). Copy the folder again, or train it again."
        ) from error
    score = tensors.pop(SCORE, None)
    if config.task_type == TaskType.SEQ_CLS:
        kept = [m for m in config.modules_to_save or [] if m not in {"score", "classifier"}]
        config.modules_to_save = kept or None
    config.task_type = TaskType.CAUSAL_LM
    return Adapter(config, tensors, score)


def write_adapter(adapter: Adapter, folder: Path, *, base: str) -> None:
    """Writes `adapter` into `folder` as peft does, its base model named `base`. With a `score` it is a
    sequence-classification adapter that stores that head.
    """
    config = copy.deepcopy(adapter.config)
    config.base_model_name_or_path = base
    config.inference_mode = True
    tensors = dict(adapter.tensors)
    if adapter.score is not None:
        config.task_type = TaskType.SEQ_CLS
        config.modules_to_save = [*(config.modules_to_save or []), "score"]
        tensors[SCORE] = adapter.score.detach().cpu().contiguous()
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def with_score(adapter: Adapter, score: Tensor) -> Adapter:
    """`adapter` with a reward head [1, d] beside it."""
    return replace(adapter, score=score)
