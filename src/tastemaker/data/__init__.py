"""Preference data: records from the files people have, tokens from records, batches from tokens."""

from tastemaker.data.bundles import Tokenised, tokenise
from tastemaker.data.loader import (
    batch_indices,
    batches,
    epoch_order,
    prompt_key,
    share,
    share_indices,
    split_records,
    steps_per_epoch,
    total_steps,
)
from tastemaker.data.problems import BadRow, DroppedRow
from tastemaker.data.receipt import Receipt
from tastemaker.data.sources import Dataset, read_records
from tastemaker.data.template import ChatTemplate
from tastemaker.data.writing import write_records

__all__ = [
    "BadRow",
    "ChatTemplate",
    "Dataset",
    "DroppedRow",
    "Receipt",
    "Tokenised",
    "batch_indices",
    "batches",
    "epoch_order",
    "prompt_key",
    "read_records",
    "share",
    "share_indices",
    "split_records",
    "steps_per_epoch",
    "tokenise",
    "total_steps",
    "write_records",
]
