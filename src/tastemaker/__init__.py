"""Tastemaker teaches language models what people prefer.

    import tastemaker as tm

    sft = tm.train(tm.SFT(), model="Qwen/Qwen3-0.6B", data="demos.jsonl")
    dpo = tm.train(tm.DPO(beta=0.1), model=sft, data="pairs.jsonl")
    tm.evaluate([sft, dpo], prompts="test.jsonl", judge="http://localhost:8000/v1#my-model").open()
    tm.compare(methods=("dpo", "ppo"), model=str(sft.folder), data="pairs.jsonl").open()

Names are loaded when they are first used, so that `tm.functional` needs torch alone.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# Tensors of 2 MiB and more in large pages: at 42M weights small ones cost a twelfth of a step. PyTorch reads it
# when it makes its first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

if TYPE_CHECKING:
    from tastemaker import functional as functional
    from tastemaker.config import CompareSettings, TrainSettings
    from tastemaker.data import read_records
    from tastemaker.errors import TastemakerError
    from tastemaker.methods import (
        CPO,
        DPO,
        GRPO,
        METHODS,
        ORPO,
        PPO,
        RAFT,
        REINFORCE,
        RLOO,
        SFT,
        OnlineDPO,
        ReinforcePP,
        RewardModel,
        SimPO,
    )
    from tastemaker.methods.sample import Sample
    from tastemaker.runs import Run
    from tastemaker.studies.compare import compare
    from tastemaker.studies.evaluate import evaluate
    from tastemaker.training import train
    from tastemaker.training.sampling import sample

__version__ = "0.1.0"

__all__ = [
    "CPO",
    "DPO",
    "GRPO",
    "METHODS",
    "ORPO",
    "PPO",
    "RAFT",
    "REINFORCE",
    "RLOO",
    "SFT",
    "CompareSettings",
    "OnlineDPO",
    "ReinforcePP",
    "RewardModel",
    "Run",
    "Sample",
    "SimPO",
    "TastemakerError",
    "TrainSettings",
    "__version__",
    "compare",
    "evaluate",
    "functional",
    "read_records",
    "sample",
    "train",
]

_HOMES = {
    "CPO": "methods",
    "CompareSettings": "config",
    "DPO": "methods",
    "GRPO": "methods",
    "METHODS": "methods",
    "ORPO": "methods",
    "PPO": "methods",
    "OnlineDPO": "methods",
    "RAFT": "methods",
    "REINFORCE": "methods",
    "RLOO": "methods",
    "ReinforcePP": "methods",
    "RewardModel": "methods",
    "Run": "runs",
    "SFT": "methods",
    "Sample": "methods.sample",
    "SimPO": "methods",
    "TastemakerError": "errors",
    "TrainSettings": "config",
    "compare": "studies.compare",
    "evaluate": "studies.evaluate",
    "read_records": "data",
    "sample": "training.sampling",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name == "functional":
        return importlib.import_module("tastemaker.functional")
    if name not in _HOMES:
        raise AttributeError(f"module 'tastemaker' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tastemaker.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
