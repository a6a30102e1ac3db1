"""What reading and tokenising did to the data, counted before the first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from tastemaker.data.prompts import NO_SHARED_PROMPT

SHOWN = 20


@dataclass(frozen=True)
class Dropped:
    """Rows left out for one reason; the first 20 by name."""

    count: int
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Lengths:
    """Lengths in tokens. `p95` is the smallest length that at least 95% do not exceed."""

    mean: float
    p95: int
    max: int


@dataclass(frozen=True)
class Receipt:
    """Counts of one `tokenise`. Every row that was read is used, dropped or skipped."""

    source: str
    kind: str
    format: str
    data_sha256: str
    rows: int
    used: int
    """Records that became trees. A row may hold several records (judgements made from pairs)."""
    skipped: int
    """Rows that break their format, where some were allowed."""
    dropped: Mapping[str, Dropped]
    """By reason."""
    truncated_responses: int
    lost_eos: int
    """Responses without their end token, because it was cut off or the tokenizer has none."""
    truncated_prompts: int
    doubled_bos: int
    """Begin tokens taken off because the text or the template had written one already."""
    doubled_eos: int
    """End tokens taken off because the text had been formatted before."""
    empty_prompts: int
    empty_prompt_token: str
    """The token that stands for an empty prompt, e.g. "<s> (bos)"."""
    prompts_not_shared: int
    tokens: Mapping[str, Lengths]
    """Of prompts and responses; chosen and rejected apart where there are pairs."""
    longer_chosen: float | None
    """Share of pairs whose chosen response has more tokens, of those of unequal length."""
    control_rows: int
    """Rows with text that looks like a control token."""
    control_tokens: Mapping[str, int]
    """Which, and how often; kept as text."""
    end_token: str
    template: str
    """"none", "plain", "tokenizer" or "given"."""
    template_sha256: str
    tokenizer_sha256: str
    settings: Mapping[str, object]

    def to_json(self) -> dict[str, object]:
        """Plain JSON types."""
        return asdict(self)

    def summary(self) -> str:
        """A few lines for a person."""
        lines = [f"{self.source}: {self.rows} rows read, {self.used} used ({self.kind}; {self.format})"]
        if self.skipped:
            lines.append(f"  {self.skipped} rows skipped: they break their format")
        lines += [
            f"  {d.count} dropped: {reason} (rows {', '.join(d.rows[:3])}{', ...' if d.count > 3 else ''})"
            for reason, d in sorted(self.dropped.items(), key=lambda item: -item[1].count)
        ]
        sizes = [f"{name} {t.mean:.0f} (p95 {t.p95}, max {t.max})" for name, t in self.tokens.items()]
        lines.append(f"  tokens, mean: {'; '.join(sizes)}")
        if self.longer_chosen is not None:
            lines.append(f"  the chosen response is the longer one in {self.longer_chosen:.0%} of pairs")
        lines += self._warnings()
        return "\n".join(lines)

    def _warnings(self) -> list[str]:
        lines: list[str] = []
        if self.truncated_responses:
            lines.append(f"  {self.truncated_responses} responses cut at the limit, so that they do not end")
        if self.truncated_prompts:
            lines.append(f"  {self.truncated_prompts} prompts cut from the left")
        if not self.end_token:
            lines.append("  the tokenizer has no end token: the model cannot learn where to stop")
        if self.doubled_bos or self.doubled_eos:
            lines.append(
                f"  {self.doubled_bos} doubled begin and {self.doubled_eos} doubled end tokens taken off"
            )
        if self.control_rows:
            names = ", ".join(list(self.control_tokens)[:5])
            lines.append(
                f"  {self.control_rows} rows hold text that looks like control tokens ({names}): kept as text"
            )
        if self.empty_prompts:
            lines.append(f"  {self.empty_prompts} prompts are empty: {self.empty_prompt_token} stands for them")
        return lines


@dataclass
class Tally:
    """Counts while tokenising."""

    drops: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    prompts: list[int] = field(default_factory=list[int])
    responses: list[int] = field(default_factory=list[int])
    pairs: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    control: Counter[str] = field(default_factory=Counter[str])
    control_rows: int = 0
    truncated_responses: int = 0
    truncated_prompts: int = 0
    lost_eos: int = 0
    doubled_bos: int = 0
    doubled_eos: int = 0
    empty_prompts: int = 0

    def drop(self, row: str, reason: str) -> None:
        self.drops.setdefault(reason, []).append(row)

    def note_control(self, found: Sequence[str]) -> None:
        self.control.update(found)
        self.control_rows += bool(found)

    def note_lengths(self, prompt: int, responses: Sequence[int], ranks: Sequence[int]) -> None:
        self.prompts.append(prompt)
        self.responses += responses
        for i, a in enumerate(ranks):
            self.pairs += [(responses[i], responses[j]) for j, b in enumerate(ranks) if a < b]

    def dropped(self) -> dict[str, Dropped]:
        return {reason: Dropped(len(rows), tuple(rows[:SHOWN])) for reason, rows in self.drops.items()}

    def not_shared(self) -> int:
        return len(self.drops.get(NO_SHARED_PROMPT, ()))

    def tokens(self) -> dict[str, Lengths]:
        found = {"prompt": lengths(self.prompts)}
        if self.pairs:
            found["chosen"] = lengths([c for c, _ in self.pairs])
            found["rejected"] = lengths([r for _, r in self.pairs])
        elif self.responses:
            found["response"] = lengths(self.responses)
        return found

    def longer_chosen(self) -> float | None:
        unequal = [(c, r) for c, r in self.pairs if c != r]
        return sum(c > r for c, r in unequal) / len(unequal) if unequal else None


def lengths(values: Iterable[int]) -> Lengths:
    """Mean, 95th percentile (nearest rank) and maximum; zeros where there are no values."""
    ordered = sorted(values)
    if not ordered:
        return Lengths(0.0, 0, 0)
    rank = -(-95 * len(ordered) // 100)
    return Lengths(sum(ordered) / len(ordered), ordered[rank - 1], ordered[-1])
