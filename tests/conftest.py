"""What all tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")  # kernels and memory that a CPU has not


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real public records, where the folder with them stands beside the project."""
    root = Path(os.environ.get("TASTEMAKER_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    folder = root / "data"
    if not folder.is_dir():
        words = "real records are not beside the project (set TASTEMAKER_SHARED to their folder)"
        pytest.skip(words)  # the project must pass without that folder
    return folder
