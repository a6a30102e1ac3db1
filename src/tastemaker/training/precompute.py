"""The reference's log-probabilities of a whole data set, computed once and kept beside the run.

The cache is keyed by everything the numbers depend on: the reference's weights (its adapter's among them), the
token ids (which template, tokeniser and lengths decide) and the number format. A cache of other inputs is made
again.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tastemaker.data import Tokenised
from tastemaker.models import RoleModels
from tastemaker.runs import sha256_json
from tastemaker.training.distributed import World

FILE = "reference_logps.safetensors"
CHUNK = 256
"""Trees put together at a time, by each process in its turn."""


def reference_logps(models: RoleModels, tokenised: Tokenised, folder: Path, world: World) -> list[Tensor]:
    """[tokens of the tree's responses] for every tree of the data."""
    key = cache_key(models, tokenised)
    path = folder / FILE
    sizes = [t.response_tokens for t in tokenised.trees]
    known = _read(path, key)
    if all(world.gather(known is not None)) and known is not None:
        return list(known.split(sizes))
    starts = range(0, len(tokenised.trees), CHUNK)
    mine = [_score(models, tokenised, start) for start in starts[world.rank :: world.size]]
    shares = world.gather(mine)
    logps = torch.cat([shares[i % world.size][i // world.size] for i in range(len(starts))])
    if world.main:
        temporary = path.with_suffix(".tmp")
        save_file({"logps": logps}, temporary, {"key": key})
        temporary.replace(path)
    return list(logps.split(sizes))


def _read(path: Path, key: str) -> Tensor | None:
    if not path.exists():
        return None
    with safe_open(path, "pt") as cache:  # pyright: ignore[reportUnknownVariableType]
        return cache.get_tensor("logps") if (cache.metadata() or {}).get("key") == key else None


def _score(models: RoleModels, tokenised: Tokenised, start: int) -> Tensor:
    chunk = tokenised.batch(range(start, min(start + CHUNK, len(tokenised.trees)))).to(models.device)
    logps = models.score("reference", chunk).logps
    assert logps is not None
    return logps.cpu()


def cache_key(models: RoleModels, tokenised: Tokenised) -> str:
    """Changes with the reference's weights, any token, the number format."""
    return sha256_json([models.weights_hash("reference"), str(models.dtype), tokenised.sha256])
