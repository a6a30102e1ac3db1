"""What a data set's texts say by themselves, before any tokenizer: one pass, linear in the rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from tastemaker.data.audit.said import answers_said, characters, claims, prompt_characters, prompt_id
from tastemaker.data.convert import EMPTY, IDENTICAL
from tastemaker.data.dialogue import turns
from tastemaker.data.measures import (
    SHOWN,
    LengthBias,
    Lengths,
    Linked,
    LinkTally,
    Rows,
    RowTally,
    length_bias,
    lengths,
    ordered_pairs,
)
from tastemaker.data.prompts import NO_SHARED_PROMPT
from tastemaker.data.rendering import responses_of
from tastemaker.data.sources import Dataset
from tastemaker.data.visible import visible
from tastemaker.types import Comparison, Judgement, Question, Record, StepLabels, Text

# What well-known tokenizers and templates write around turns. Inside texts it is a sign of formatting done
# before.
_CONTROL = re.compile(
    r"<\|[a-z][a-z0-9_]{0,40}\|>|</?s>|<(?:bos|eos|pad|unk|mask)>|<(?:start|end)_of_turn>"
    r"|\[/?INST\]|<</?SYS>>|\[(?:CLS|SEP|BOS|EOS|PAD)\]",
    re.IGNORECASE,
)
_REPEATED = 20
"""Characters from which on a prompt at the head of a response is no coincidence."""


@dataclass(frozen=True)
class Leakage:
    """What held-out data share with the training data."""

    source: str
    records: int
    """Held-out records."""
    prompts: Linked
    """Held-out records whose prompt is in the training data, each with the first row it is in."""
    whole: Linked
    """Of these, the ones whose responses and preference are the same too."""

    def to_line(self) -> str:
        """One line for a person."""
        source = visible(self.source)
        if not self.prompts.count:
            return f"no prompt of {source} is among these rows"
        return (
            f"{self.prompts.count} of {self.records} records of {source} have a prompt that is among these "
            f"rows ({self.whole.count} are repeated whole; {self.prompts.named('as')})"
        )


@dataclass(frozen=True)
class Audit:
    """What the texts say. Rows are named by their id, or by their line where they have none.

    Lengths are in characters, without white space at either end. Findings about single texts (lengths, empty
    and identical responses) cover the rows that reading dropped as well, as far as they could be read; those
    about several rows (duplicates, contradictions, prompts, leakage) cover usable records only.
    """

    source: str
    kind: str
    format: str
    data_sha256: str
    rows: int
    usable: int
    """Records. A row may give several (annotators, judgements made from pairs) or none."""
    skipped: Rows
    """Rows that break their format, where some were allowed."""
    dropped: Mapping[str, Rows]
    """Rows that reading leaves out, by reason."""
    empty: Mapping[str, Rows]
    """Rows with an empty response, by its side: chosen, rejected or response."""
    identical: Rows
    """Rows whose differently ranked responses are the same text."""
    no_shared_prompt: Rows
    """Rows without a prompt column whose sides do not begin with the same prompt."""
    empty_prompts: Rows
    labels: Mapping[str, int]
    """Records by what they say: ordered and tied comparisons, desirable and undesirable responses, right and
    wrong steps, questions with and without an answer.
    """
    prompts: int
    """Different prompts, white space aside."""
    several_turns: int
    """Records whose prompt holds more than one user turn."""
    repeats_prompt: Rows
    """Rows where a response begins with the whole prompt (of 20 characters or more)."""
    duplicates: Linked
    """Records that say what an earlier one says."""
    contradictory: Linked
    """Records that say the opposite of an earlier one: the same texts, the other one preferred."""
    control: Rows
    """Rows with text that looks like some model's control tokens."""
    control_texts: Mapping[str, int]
    """The 20 most frequent of these, and how often they occur."""
    lengths: Mapping[str, Lengths]
    length_bias: LengthBias | None
    """Of chosen over rejected responses, in characters."""
    leakage: Leakage | None
    """None where no held-out data was given."""

    def to_json(self) -> dict[str, object]:
        """Plain JSON types."""
        return asdict(self)

    def header(self) -> str:
        source = visible(self.source)
        return f"{source}: {self.rows} rows read, {self.usable} usable ({self.kind}; {self.format})"

    def summary(self) -> str:
        """A few lines for a person."""
        sizes = [f"{name} {t.mean:.0f} (p95 {t.p95}, max {t.max})" for name, t in self.lengths.items()]
        lines = [self.header(), f"  characters, mean: {'; '.join(sizes)}"]
        if self.length_bias is not None:
            lines.append(f"  {self.length_bias.words('characters')}")
        return "\n".join([*lines, *(f"  {line}" for line in self.warnings())])

    def warnings(self) -> list[str]:
        """A line for each finding that is there."""
        lines = [
            (self.duplicates.count, f"repeat an earlier row ({self.duplicates.named('as')})"),
            (self.contradictory.count, f"contradict an earlier row ({self.contradictory.named('and')})"),
            (
                self.repeats_prompt.count,
                f"have a response that repeats the prompt (rows {self.repeats_prompt.named()})",
            ),
        ]
        told = [f"{count} records {words}" for count, words in lines if count]
        return [*told, *([self.leakage.to_line()] if self.leakage is not None else [])]


def audit_texts(dataset: Dataset, held_out: Dataset | None = None) -> Audit:
    """Looks at every text of `dataset` once, and at the prompts of `held_out` where given."""
    look = Look()
    for number, record in _numbered(dataset):
        row, prompt = _name(record, number), prompt_id(record)
        look.at_text(record, row, prompt)
        look.at_others(record, row, number, prompt, answers_said(record))
    # Converted data (the best of each pair, say) measure what they teach; what was dropped is of another kind.
    lost = [d for d in dataset.dropped if isinstance(d.record, dataset.kind)]
    for dropped in lost:
        if dropped.record is not None:
            look.at_text(dropped.record, dropped.row, prompt_id(dropped.record))
    by_reason: dict[str, RowTally] = {}
    for dropped in dataset.dropped:
        by_reason.setdefault(dropped.reason, RowTally()).add(dropped.row)
        if dropped.record is not None and dropped.reason == EMPTY:
            look.at_empty(dropped.record, dropped.row)
    left_out = {reason: rows.done() for reason, rows in by_reason.items()}
    skipped = RowTally()
    for bad in dataset.skipped:
        skipped.add(bad.where)
    return Audit(
        source=dataset.source,
        kind=dataset.kind.__name__,
        format=dataset.format,
        data_sha256=dataset.sha256,
        rows=dataset.rows,
        usable=len(dataset.records),
        skipped=skipped.done(),
        dropped=left_out,
        empty={side: rows.done() for side, rows in look.empty.items()},
        identical=left_out.get(IDENTICAL, Rows()),
        no_shared_prompt=left_out.get(NO_SHARED_PROMPT, Rows()),
        empty_prompts=look.empty_prompts.done(),
        labels=dict(look.labels),
        prompts=len(look.prompts),
        several_turns=look.several_turns,
        repeats_prompt=look.repeats_prompt.done(),
        duplicates=look.duplicates.done(),
        contradictory=look.contradictory.done(),
        control=look.control.done(),
        control_texts=dict(look.control_texts.most_common(20)),
        lengths={side: lengths(values) for side, values in look.sizes.items()},
        length_bias=length_bias(look.pairs, look.pair_prompts),
        leakage=look.leakage(held_out) if held_out is not None else None,
    )


# ------------------------------------------------------------------------------------------ one pass


class Look:
    """What one pass over the records collects; `most` rows named of each finding, all where it is None."""

    def __init__(self, most: int | None = SHOWN) -> None:
        self.most = most
        self.labels: Counter[str] = Counter()
        self.empty: dict[str, RowTally] = {}
        self.empty_prompts = RowTally(most)
        self.several_turns = 0
        self.repeats_prompt = RowTally(most)
        self.control = RowTally(most)
        self.control_texts: Counter[str] = Counter()
        self.sizes: dict[str, list[int]] = {}
        self.pairs: list[tuple[int, int]] = []
        self.pair_prompts: list[bytes] = []
        self.prompts: dict[bytes, str] = {}
        self.said: dict[bytes, tuple[str, int]] = {}
        self.by_whom: dict[bytes, tuple[str, int]] = {}
        self.claims: dict[bytes, dict[bytes, str]] = {}
        self.duplicates = LinkTally(most)
        self.contradictory = LinkTally(most)

    def at_text(self, record: Record, row: str, prompt: bytes) -> None:
        """One record's own texts."""
        responses = responses_of(record)
        sizes = [characters(r) for r in responses]
        self.sizes.setdefault("prompt", []).append(prompt_characters(record.prompt))
        if isinstance(record, Comparison):
            ordered = ordered_pairs(record.ranking)
            self.pairs += [(sizes[i], sizes[j]) for i, j in ordered]
            self.pair_prompts += [prompt] * len(ordered)
            self.sizes.setdefault("chosen", []).extend(sizes[i] for i, _ in ordered)
            self.sizes.setdefault("rejected", []).extend(sizes[j] for _, j in ordered)
        elif sizes:
            side = next(iter(_labels(record))) if isinstance(record, Judgement) else "response"
            self.sizes.setdefault(side, []).extend(sizes)
        asking = turns(record.prompt, "user")
        self.several_turns += sum(m.role == "user" for m in asking) > 1
        if not any(m.content.strip() for m in asking):
            self.empty_prompts.add(row)
        asked = asking[-1].content.strip() if asking else ""
        if len(asked) >= _REPEATED and any(
            isinstance(r, str) and r.lstrip().startswith(asked) for r in responses
        ):
            self.repeats_prompt.add(row)
        found = [match for text in _contents(record, responses) for match in _CONTROL.findall(text)]
        if found:
            self.control.add(row)
            self.control_texts.update(found)

    def at_empty(self, record: Record, row: str) -> None:
        """Which side of a dropped record is empty."""
        best = min(record.ranking) if isinstance(record, Comparison) else 0
        sides: dict[str, None] = {}
        for k, response in enumerate(responses_of(record)):
            if characters(response) == 0:
                paired = isinstance(record, Comparison) and len(set(record.ranking)) > 1
                chosen = isinstance(record, Comparison) and record.ranking[k] == best
                sides["response" if not paired else "chosen" if chosen else "rejected"] = None
        for side in sides:
            self.empty.setdefault(side, RowTally(self.most)).add(row)

    def at_others(self, record: Record, row: str, number: int, prompt: bytes, said: Sequence[bytes]) -> None:
        """One record beside those before it. Annotators (of one row, or named) repeat nothing by agreeing."""
        self.labels.update(_labels(record))
        self.prompts.setdefault(prompt, row)
        claimed_here, whole = claims(record, prompt, said)
        earlier = self.said.setdefault(whole, (row, number))
        if isinstance(record, Comparison) and record.annotator:
            earlier = self.by_whom.setdefault(whole + record.annotator.encode(), (row, number))
        if earlier[1] != number:
            self.duplicates.add(row, earlier[0])
        against = ""
        for topic, claim in claimed_here:
            claimed = self.claims.setdefault(topic, {})
            against = against or next((other for c, other in claimed.items() if c != claim), "")
            claimed.setdefault(claim, row)
        if against:
            self.contradictory.add(row, against)

    def leakage(self, held_out: Dataset) -> Leakage:
        prompts, whole = LinkTally(), LinkTally()
        for number, record in _numbered(held_out):
            prompt = prompt_id(record)
            known = self.prompts.get(prompt)
            if known is None:
                continue
            row = _name(record, number)
            prompts.add(row, known)
            same = self.said.get(claims(record, prompt, answers_said(record))[1])
            if same is not None:
                whole.add(row, same[0])
        return Leakage(held_out.source, len(held_out.records), prompts.done(), whole.done())


def _labels(record: Record) -> dict[str, int]:
    if isinstance(record, Comparison):
        return {"ordered" if len(set(record.ranking)) > 1 else "tied": 1}
    if isinstance(record, Judgement):
        return {"desirable" if record.desirable else "undesirable": 1}
    if isinstance(record, StepLabels):
        return {"right steps": sum(record.labels), "wrong steps": len(record.labels) - sum(record.labels)}
    if isinstance(record, Question):
        return {"without an answer" if record.answer is None else "with an answer": 1}
    return {}


def _numbered(dataset: Dataset) -> Iterable[tuple[int, Record]]:
    """Records with the number of their row; their place where a data set was put together by hand."""
    if len(dataset.numbers) != len(dataset.records):
        return enumerate(dataset.records)
    return zip(dataset.numbers, dataset.records, strict=True)


def _name(record: Record, number: int) -> str:
    return record.row or str(number)


def _contents(record: Record, responses: Sequence[Text]) -> Iterator[str]:
    for text in (record.prompt, *responses):
        for content in (text,) if isinstance(text, str) else (m.content for m in text):
            if "<" in content or "[" in content:
                yield content
