"""What reading and tokenising did to the data, counted before the first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from tastemaker.data.agreement import Agreement
from tastemaker.data.audit import Audit
from tastemaker.data.measures import (
    LengthBias,
    Lengths,
    Rows,
    RowTally,
    length_bias,
    lengths,
    ordered_pairs,
)
from tastemaker.data.prompts import NO_SHARED_PROMPT
from tastemaker.data.visible import visible

__all__ = ["LengthBias", "Lengths", "Receipt", "Rows", "Tally", "lengths"]

_REASONS = 8
"""Reasons for dropping that a summary names."""


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
    dropped: Mapping[str, Rows]
    """By reason."""
    responses: int
    truncated_responses: int
    lost_eos: int
    """Responses without their end token, because it was cut off or the tokenizer has none."""
    added_eos: int
    """Responses of conversations whose chat template writes no end token; the tokenizer's is added."""
    truncated_prompts: int
    doubled_bos: int
    """Begin tokens taken off because the text or the template had written one already."""
    doubled_eos: int
    """End tokens taken off because the text had been formatted before."""
    unknown_tokens: int
    """Where the tokenizer has no token for a text."""
    empty_prompts: int
    empty_prompt_token: str
    """The token that stands for an empty prompt, e.g. "<s> (bos)"."""
    prompts_not_shared: int
    findings: Mapping[str, Rows]
    """The rows behind the counts above: truncated (prompt or response), truncated_prompts,
    truncated_responses, lost_eos, added_eos, doubled_bos, doubled_eos, control_tokens, unknown_tokens,
    empty_prompts. These count rows, where the fields of the same names count responses and tokens.
    """
    tokens: Mapping[str, Lengths]
    """Of prompts and responses; chosen and rejected apart where there are pairs."""
    all_tokens: int
    """In prompts, each counted once, and responses."""
    response_tokens: int
    trained_tokens: int
    """Response tokens that carry loss."""
    longer_chosen: float | None
    """Share of pairs whose chosen response has more tokens, of those of unequal length."""
    length_bias: LengthBias | None
    """Of chosen over rejected responses, in tokens."""
    control_rows: int
    """Rows with text that looks like a control token of this tokenizer."""
    control_tokens: Mapping[str, int]
    """Which, and how often; kept as text."""
    end_token: str
    template: str
    """"none", "plain", "tokenizer" or "given"."""
    template_sha256: str
    tokenizer_sha256: str
    settings: Mapping[str, object]
    audit: Audit
    """What the texts say by themselves: duplicates, contradictions, leakage, lengths in characters."""
    agreement: Agreement | None = None
    """Whether the reward model reads the same tokens; none where there is no reward model."""

    def to_json(self) -> dict[str, object]:
        """Plain JSON types, with the summary beside the counts."""
        return {"summary": self.summary(), **asdict(self)}

    def summary(self) -> str:
        """A few lines for a person."""
        source = visible(self.source)
        lines = [f"{source}: {self.rows} rows read, {self.used} used ({self.kind}; {self.format})"]
        if self.skipped:
            lines.append(f"  {self.skipped} rows skipped: they break their format")
        lines += self._drops()
        sizes = [f"{name} {t.mean:.0f} (p95 {t.p95}, max {t.max})" for name, t in self.tokens.items()]
        if self.trained_tokens:
            sizes.append(f"{self.trained_tokens / self.all_tokens:.0%} of all are trained")
        lines.append(f"  tokens, mean: {'; '.join(sizes)}")
        if self.length_bias is not None:
            lines.append(f"  {self.length_bias.words('tokens')}")
        return "\n".join([*lines, *(f"  {line}" for line in self.warnings())])

    def _drops(self) -> list[str]:
        """Templates and tokenizers may give every row its own reason, so only the most frequent are told."""
        ordered = sorted(self.dropped.items(), key=lambda item: -item[1].count)
        lines = [
            f"  {d.count} dropped: {visible(reason)} (rows {d.named()})" for reason, d in ordered[:_REASONS]
        ]
        rest = ordered[_REASONS:]
        if rest:
            lines.append(f"  {sum(d.count for _, d in rest)} dropped for {len(rest)} more reasons")
        return lines

    def warnings(self) -> list[str]:
        """A line for each thing worth knowing that is there."""
        lines: list[str] = []
        if self.truncated_responses:
            lines.append(
                f"{self.truncated_responses} responses cut at the limit, so that they do not end "
                f"(rows {self.findings['truncated_responses'].named()})"
            )
        if self.truncated_prompts:
            lines.append(
                f"{self.truncated_prompts} prompts cut from the left "
                f"(rows {self.findings['truncated_prompts'].named()})"
            )
        if not self.end_token:
            lines.append("the tokenizer has no end token: the model cannot learn where to stop")
        elif self.added_eos:
            lines.append(
                f"the chat template does not end {self.added_eos} responses: {visible(self.end_token)} is added"
            )
        if self.doubled_bos or self.doubled_eos:
            lines.append(
                f"{self.doubled_bos} doubled begin and {self.doubled_eos} doubled end tokens taken off"
            )
        if self.control_rows:
            names = ", ".join(visible(name) for name in list(self.control_tokens)[:5])
            lines.append(
                f"{self.control_rows} rows hold text that looks like control tokens ({names}): kept as text"
            )
        if self.unknown_tokens:
            lines.append(
                f"{self.unknown_tokens} tokens stand for text that the tokenizer does not know "
                f"(rows {self.findings['unknown_tokens'].named()})"
            )
        if self.empty_prompts:
            lines.append(f"{self.empty_prompts} prompts are empty: {self.empty_prompt_token} stands for them")
        lines += self.audit.warnings()
        if self.agreement is not None:
            lines.append(self.agreement.to_line())
        return lines


@dataclass
class Tally:
    """Counts while tokenising."""

    drops: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    found: dict[str, RowTally] = field(
        default_factory=lambda: {
            name: RowTally()
            for name in (
                "truncated",
                "truncated_prompts",
                "truncated_responses",
                "lost_eos",
                "added_eos",
                "doubled_bos",
                "doubled_eos",
                "control_tokens",
                "unknown_tokens",
                "empty_prompts",
            )
        }
    )
    counts: Counter[str] = field(default_factory=Counter[str])
    prompts: list[int] = field(default_factory=list[int])
    responses: list[int] = field(default_factory=list[int])
    pairs: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    pair_prompts: list[Hashable] = field(default_factory=list[Hashable])
    control: Counter[str] = field(default_factory=Counter[str])
    trained: int = 0

    def drop(self, row: str, reason: str) -> None:
        self.drops.setdefault(reason, []).append(row)

    def note(self, row: str, **counts: int) -> None:
        """Adds to the counts of a row's findings; zero finds nothing."""
        for name, count in counts.items():
            if count:
                self.counts[name] += count
                self.found[name].add(row)

    def note_lengths(self, prompt: Sequence[int], responses: Sequence[int], ranks: Sequence[int]) -> None:
        """`prompt` is its ids: pairs of one prompt are counted as such."""
        self.prompts.append(len(prompt))
        self.responses += responses
        ordered = ordered_pairs(ranks)
        self.pairs += [(responses[i], responses[j]) for i, j in ordered]
        if ordered:
            self.pair_prompts += [hash(tuple(prompt))] * len(ordered)

    def dropped(self) -> dict[str, Rows]:
        found: dict[str, Rows] = {}
        for reason, rows in self.drops.items():
            tally = RowTally()
            for row in rows:
                tally.add(row)
            found[reason] = tally.done()
        return found

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

    def bias(self) -> LengthBias | None:
        return length_bias(self.pairs, self.pair_prompts)
