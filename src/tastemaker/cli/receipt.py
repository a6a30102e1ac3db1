"""`tastemaker receipt`: what would be trained on, counted and token by token.

What needs torch is imported when the command acts, after its command line has been found right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.text import Text

from tastemaker.cli.catalogue import INPUTS, REWARD, Option, train_options
from tastemaker.cli.command import Command
from tastemaker.cli.help import console
from tastemaker.cli.layers import Request, UsageError, as_usage
from tastemaker.config import TrainSettings, settings_from

if TYPE_CHECKING:
    from tastemaker.data import Audit, Dataset, Example, Receipt, Tokenised

Kind = Literal["auto", "comparison", "demonstration", "judgement", "steps", "question"]

OWN: tuple[Option, ...] = (
    Option(
        "data", str | None, "the word after receipt", next(o.text for o in INPUTS if o.name == "data"), "run"
    ),
    Option(
        "model",
        str | None,
        "none",
        "Whose tokenizer and chat template: name on the hub, folder, run, or tiny; none: the texts alone.",
        "run",
    ),
    replace(REWARD, kind=str | None, default="none", text="Reward model: does it read the same tokens?"),
    Option("eval_data", str | None, "none", "Held-out data: which of its prompts are in data?", "run"),
    Option("kind", Kind, "auto", "Records to read the rows as; auto: what their columns give.", "run"),
    Option(
        "row", str | None, "none", "Row to show token by token, by id or line; none: the first used.", "show"
    ),
    Option("ids", bool, "false", "Show the id of each token.", "show"),
    Option("whole", bool, "false", "Show long examples whole.", "show"),
    Option("json", bool, "false", "Print the counts, the limits and the example as JSON.", "show"),
)
OF_TOKENS = ("reward", "row", "ids", "whole", "chat_template")
"""Options that mean nothing without a tokenizer."""
LIMITS = ("max_dropped", "max_truncated", "max_lost_eos", "max_duplicates", "max_contradictory", "max_leaked")


def _options() -> tuple[Option, ...]:
    of_data = [o for o in train_options() if o.group == "data"]
    trusted = [o for o in train_options() if o.name == "trust_remote_code"]
    return (*OWN, *of_data, *trusted)


def _receipt(request: Request) -> None:
    values = dict(request.values)
    named = [source for source in (*request.words, values.get("data")) if source]
    if len(named) != 1:
        raise UsageError("missing: the data" if not named else f"data given twice: {' and '.join(named)}")
    if values.get("model") is None:
        idle = [f"--{name.replace('_', '-')}" for name in OF_TOKENS if values.get(name)]
        if idle:
            raise UsageError(
                f"{', '.join(idle)}: needs --model (`--model tiny` makes a tokenizer of the texts)"
            )
    own = {o.name for o in OWN}
    with as_usage():
        settings = settings_from(
            TrainSettings, {k: v for k, v in values.items() if k not in own}, origin="tastemaker receipt"
        )
    with console(errors=True).status("reading"):
        found, shown = _look(named[0], values, settings)
    out = console()
    limits = {name: getattr(settings, name) for name in LIMITS}
    if values.get("json"):
        out.print(Text(_as_json(found, limits, shown)), soft_wrap=True)
    else:
        _show(out, found, limits, shown, values)
    from tastemaker.data import enforce

    enforce(found, limits)


def _look(
    source: str, values: Mapping[str, Any], settings: TrainSettings
) -> tuple[Receipt | Audit, Example | None]:
    """The counts, and with a model the example."""
    from tastemaker.data import audit_texts, example, find_row, read_records

    dataset = read_records(source, _kinds()[values.get("kind", "auto")], max_bad=settings.max_bad)
    held_out = _held_out(values.get("eval_data"), dataset, settings)
    if values.get("model") is None:
        return audit_texts(dataset, held_out), None
    tokenizer = _tokenizer(values["model"], settings, dataset)
    tokenised = _tokenised(dataset, tokenizer, held_out, values, settings)
    row = values.get("row")
    at = find_row(tokenised, dataset, row) if row else 0
    return tokenised.receipt, example(tokenised, tokenizer, at)


def _tokenised(
    dataset: Dataset,
    tokenizer: Any,
    held_out: Dataset | None,
    values: Mapping[str, Any],
    settings: TrainSettings,
) -> Tokenised:
    """As a run does before its first step."""
    from tastemaker.data import tokenise
    from tastemaker.training.samples import UNLIMITED

    reward = values.get("reward")
    return tokenise(
        dataset,
        tokenizer,
        max_length=settings.max_length or UNLIMITED,
        max_prompt_length=settings.max_prompt_length,
        truncation_mode=settings.truncation_mode,
        chat_template=settings.chat_template,
        held_out=held_out,
        reward_tokenizer=_tokenizer(reward, settings, None) if reward else None,
    )


def _kinds() -> Mapping[str, type | None]:
    from tastemaker.types import Comparison, Demonstration, Judgement, Question, StepLabels

    return {
        "auto": None,
        "comparison": Comparison,
        "demonstration": Demonstration,
        "judgement": Judgement,
        "steps": StepLabels,
        "question": Question,
    }


def _held_out(source: str | None, dataset: Dataset, settings: TrainSettings) -> Dataset | None:
    """Held-out records, as the data's kind where they can be read so."""
    if source is None:
        return None
    from tastemaker.data import read_records
    from tastemaker.data.convert import FOLLOWS

    found = read_records(source, max_bad=settings.max_bad)
    if found.kind is not dataset.kind and found.kind in FOLLOWS[dataset.kind]:
        return read_records(source, dataset.kind, max_bad=settings.max_bad)
    return found


def _tokenizer(model: str, settings: TrainSettings, dataset: Dataset | None) -> Any:
    """The tokenizer of a model; that of `tiny` is made from the data."""
    from tastemaker.errors import TastemakerError
    from tastemaker.training.rehearsal import TINY, starting_model

    if model != TINY:
        from tastemaker.models.tokenizer import tokenizer_of

        return tokenizer_of(model, trust_remote_code=settings.trust_remote_code)
    if dataset is None:
        raise TastemakerError("reward: tiny is no reward model; give the run that trained one.")
    return starting_model(TINY, dataset, dataset.kind, settings.seed)[1]


# ------------------------------------------------------------------------------------------- showing


def _show(
    out: Console,
    found: Receipt | Audit,
    limits: Mapping[str, float],
    shown: Example | None,
    values: Mapping[str, Any],
) -> None:
    from tastemaker.cli.receipt_view import show_audit, show_example, show_limits, show_receipt
    from tastemaker.data import Receipt

    if isinstance(found, Receipt):
        show_receipt(out, found)
    else:
        show_audit(out, found)
    show_limits(out, found, limits)
    if shown is not None:
        show_example(out, shown, ids=values.get("ids", False), whole=values.get("whole", False))


def _as_json(found: Receipt | Audit, limits: Mapping[str, float], shown: Example | None) -> str:
    """ASCII alone, so that nothing in the data reaches a terminal raw."""
    from tastemaker.data import Receipt, shares

    held = {
        name: {
            "limit": limits[name],
            "count": share.count,
            "of": share.of,
            "broken": share.value > limits[name],
        }
        for name, share in shares(found).items()
    }
    of_texts = not isinstance(found, Receipt)
    document = {
        "receipt": None if of_texts else found.to_json(),
        "audit": found.to_json() if of_texts else found.audit.to_json(),
        "limits": held,
        "example": shown.to_json() if shown is not None else None,
    }
    return json.dumps(document, indent=2)


RECEIPT = Command(
    name="receipt",
    summary="Counts what reading and tokenising do to data, and shows an example token by token.",
    usage="DATA [--model M] [--reward R] [--eval-data D] [--row N] [--ids] [--json] [--max-dropped 0.01 ...]",
    examples=(
        "tastemaker receipt pairs.jsonl --model tiny",
        "tastemaker receipt pairs.jsonl --model Qwen/Qwen3-0.6B --eval-data test.jsonl --max-leaked 0",
    ),
    options=_options,
    act=_receipt,
    words=1,
    notes=(
        "Every run prints the short form before its first step and keeps the whole in its receipt.json.",
        "A limit that is broken ends the command with exit code 1, as it stops a run.",
    ),
)
