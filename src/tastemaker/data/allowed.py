"""Limits on what a receipt may count before a run is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tastemaker.data.audit import Audit
from tastemaker.data.receipt import Receipt
from tastemaker.data.visible import visible
from tastemaker.errors import TastemakerError


@dataclass(frozen=True)
class Share:
    """One count that can be limited."""

    count: int
    of: int
    words: str
    """What is the matter with them, after "4 of 10"."""
    remedy: str

    @property
    def value(self) -> float:
        return self.count / self.of if self.of else 0.0


def shares(receipt: Receipt | Audit) -> Mapping[str, Share]:
    """What each limit is held against, by the limit's name. An audit of texts alone knows no tokens."""
    audit = receipt.audit if isinstance(receipt, Receipt) else receipt
    skipped = audit.skipped.count
    dropped = receipt.dropped
    reasons = "; ".join(f"{d.count} rows: {visible(reason)}" for reason, d in list(dropped.items())[:8])
    found = {
        "max_dropped": Share(
            skipped + sum(d.count for d in dropped.values()),
            receipt.rows,
            f"rows cannot be used ({reasons or 'they break their format'})",
            "Mend the rows, or raise --max-dropped or the limit that drops them (--max-length).",
        ),
        "max_duplicates": Share(
            audit.duplicates.count,
            audit.usable,
            f"records repeat an earlier one ({audit.duplicates.named('as')})",
            "Take the repeated rows out, or raise --max-duplicates.",
        ),
        "max_contradictory": Share(
            audit.contradictory.count,
            audit.usable,
            f"records say the opposite of an earlier one ({audit.contradictory.named('and')})",
            "Decide which rows are right, or raise --max-contradictory.",
        ),
    }
    if audit.leakage is not None:
        leaked = audit.leakage.prompts
        found["max_leaked"] = Share(
            leaked.count,
            audit.leakage.records,
            f"records of {visible(audit.leakage.source)} have a prompt of the training data "
            f"({leaked.named('as')})",
            "Take these prompts out of one of the two, or raise --max-leaked.",
        )
    return found | _of_tokens(receipt) if isinstance(receipt, Receipt) else found


def _of_tokens(receipt: Receipt) -> dict[str, Share]:
    cut = receipt.findings["truncated"]
    return {
        "max_truncated": Share(
            cut.count,
            receipt.used,
            f"records lose tokens to the limits (rows {cut.named()})",
            "Raise --max-length or --max-prompt-length, or --max-truncated.",
        ),
        "max_lost_eos": Share(
            receipt.lost_eos,
            receipt.responses,
            f"responses do not end (rows {receipt.findings['lost_eos'].named()})",
            "Raise --max-length, give the tokenizer an end token, or raise --max-lost-eos.",
        ),
    }


def broken_limits(receipt: Receipt | Audit, limits: Mapping[str, object]) -> list[str]:
    """A line for each limit among `limits` (shares by name, other entries are passed over) that is broken."""
    broken: list[str] = []
    for name, share in shares(receipt).items():
        limit = limits.get(name)
        if isinstance(limit, int | float) and share.value > limit:
            counted = f"{share.count} of {share.of} {share.words}"
            broken.append(f"{counted}, more than {name}={limit:.4g} allows. {share.remedy}")
    return broken


def enforce(receipt: Receipt | Audit, limits: Mapping[str, object]) -> None:
    """Raises TastemakerError, naming every limit that is broken."""
    broken = broken_limits(receipt, limits)
    if broken:
        source = visible(receipt.source)
        raise TastemakerError("\n".join(f"{source}: {line}" for line in broken))
