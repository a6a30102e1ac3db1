"""Data for a method: read as the records that it learns from, or refused with the methods that fit them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, cast

from tastemaker.data import Dataset, Tokenised, WrongKind, read_records
from tastemaker.data.convert import FOLLOWS
from tastemaker.methods import METHODS
from tastemaker.runs import Run
from tastemaker.types import TastemakerError


def read_for(kind: type, data: object, *, max_bad: float = 0.0) -> Dataset:
    """Records of `kind` out of a file, rows, or whatever else `read_records` takes.

    Raises TastemakerError: see `read_records`; data of which no such records can be made, with the methods
    that learn from them.
    """
    try:
        return read_records(cast(Any, data), kind, max_bad=max_bad)
    except WrongKind as error:
        raise fitting(error) from None


Read = TypeVar("Read", bound=Dataset | Tokenised)


def check_kind(kind: type, data: Read) -> Read:
    """`data` itself, which was read already. Raises TastemakerError where it holds records of another kind."""
    if data.kind is not kind:
        source = data.receipt.source if isinstance(data, Tokenised) else data.source
        raise fitting(
            WrongKind(f"{source}: holds {data.kind.__name__}, and {kind.__name__} is wanted.", data.kind)
        )
    return data


def fitting(error: WrongKind) -> TastemakerError:
    """The error with the methods that the data are for."""
    names = ", ".join(methods_for(error.given))
    return TastemakerError(f"{error}\nMethods that learn from these data as they are: {names}.")


def methods_for(given: type) -> list[str]:
    """The methods that learn from records of this kind, or of one that follows from it."""
    return [name for name, method in METHODS.items() if given in (method.consumes, *FOLLOWS[method.consumes])]


def model_of(value: object) -> object:
    """A run stands for its model."""
    return value.folder if isinstance(value, Run) else value


def data_of(value: object) -> object:
    """A run that sampled stands for the data it made."""
    if not (isinstance(value, Run) or (isinstance(value, str | Path) and Run.is_run(value))):
        return value
    run = Run.open(value)
    if run.data_file is None:
        raise TastemakerError(
            f"{run.folder}: is a run that made no data; only a run of `tastemaker sample` does"
        )
    return str(run.data_file)
