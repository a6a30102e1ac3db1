"""One example token by token: what is prompt, what is trained, which tokens are special."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tastemaker.data.bundles import Tokenised
from tastemaker.data.problems import nearest, shorten
from tastemaker.data.sources import Dataset
from tastemaker.data.visible import visible
from tastemaker.errors import TastemakerError
from tastemaker.types import Comparison, Judgement, Record

_CONTEXT = 4
"""Tokens before a response that are decoded with it, so that its first space is kept."""
HALF = "\ufffd"
"""What decoders write for bytes that are not a letter yet."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A token and its text; several tokens where only together they are text (bytes of one letter)."""

    text: str
    ids: tuple[int, ...]
    trained: bool = False
    special: bool = False
    """A control token: what begins, ends and separates turns."""


@dataclass(frozen=True, slots=True)
class Response:
    """One response of an example."""

    label: str
    """chosen, rejected, desirable, undesirable, response, or "rank 2"."""
    pieces: tuple[Piece, ...]
    ended: bool
    """Whether its end token is there (else it was cut, or there is none)."""

    @property
    def size(self) -> int:
        """In tokens."""
        return sum(len(p.ids) for p in self.pieces)

    @property
    def trained(self) -> int:
        """Tokens that carry loss."""
        return sum(len(p.ids) for p in self.pieces if p.trained)


@dataclass(frozen=True, slots=True)
class Example:
    """One record as a model gets it, after truncation."""

    row: str
    prompt: tuple[Piece, ...]
    responses: tuple[Response, ...]

    def to_json(self) -> dict[str, object]:
        """Plain JSON types."""
        return asdict(self)


def example(tokenised: Tokenised, tokenizer: Any, index: int = 0) -> Example:
    """The tree at `index`, with the text of each token."""
    tree, record = tokenised.trees[index], tokenised.records[index]
    special = {*map(int, tokenizer.all_special_ids), *tokenised.end_token_ids}
    special |= {int(i) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    prompt = tree.prompt.tolist()
    responses: list[Response] = []
    for k, ids in enumerate(tree.responses):
        trained = tree.trained[k].tolist() if tree.trained is not None else [True] * len(ids)
        pieces = spell(tokenizer, ids.tolist(), special, trained, before=prompt[-_CONTEXT:])
        responses.append(Response(_label(record, k), tuple(pieces), tree.ended[k]))
    return Example(
        row=record.row or str(tree.row),
        prompt=tuple(spell(tokenizer, prompt, special, [False] * len(prompt))),
        responses=tuple(responses),
    )


def _label(record: Record, k: int) -> str:
    if isinstance(record, Judgement):
        return "desirable" if record.desirable else "undesirable"
    if not isinstance(record, Comparison):
        return "response"
    if len(record.ranking) == 2:
        return "chosen" if record.ranking[k] == min(record.ranking) else "rejected"
    return f"rank {record.ranking[k]}"


# ------------------------------------------------------------------------------------------ spelling


def spell(
    tokenizer: Any, ids: Sequence[int], special: set[int], trained: Sequence[bool], before: Sequence[int] = ()
) -> Iterator[Piece]:
    """Ids as pieces whose texts, one after the other, are the text; linear in the tokens.

    `before`: ids that precede, which are not spelt. A tokenizer's decoder may write a token otherwise at a
    text's beginning and cannot write half a letter, so each text is what decoding a few tokens more adds.
    """
    ids, mask = [*before, *ids], [False] * len(before) + list(trained)
    context, begun = 0, len(before)  # ids[context:begun] stands before what is being spelt
    for at in range(len(before), len(ids)):
        if ids[at] in special:
            if begun < at:
                yield Piece(_added(tokenizer, ids, context, begun, at), tuple(ids[begun:at]), mask[begun])
            yield Piece(str(tokenizer.convert_ids_to_tokens(ids[at])), (ids[at],), mask[at], True)
            context, begun = at, at + 1
            continue
        text = _added(tokenizer, ids, context, begun, at + 1)
        last = at + 1 == len(ids) or mask[at + 1] != mask[at]
        if last or (text and not text.endswith(HALF)):
            yield Piece(text, tuple(ids[begun : at + 1]), mask[at])
            context, begun = begun, at + 1


def _added(tokenizer: Any, ids: Sequence[int], context: int, begun: int, end: int) -> str:
    """What ids[begun:end] add to the text of ids[context:begun]."""
    before, after = _decode(tokenizer, ids[context:begun]), _decode(tokenizer, ids[context:end])
    return after[len(before) :] if after.startswith(before) else _decode(tokenizer, ids[begun:end])


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


# ---------------------------------------------------------------------------------------- which row


def find_row(tokenised: Tokenised, dataset: Dataset, row: str) -> int:
    """The tree of a row, by the row's id or, where none has it, by its number in the file.

    Raises TastemakerError: dropped (with the reason), or no such row (with the nearest name).
    """
    names: dict[str, int] = {}
    for i, record in enumerate(tokenised.records):
        names.setdefault(record.row or str(i), i)
    if row in names:
        return names[row]
    for reason, rows in tokenised.receipt.dropped.items():
        if row in rows.rows:
            raise TastemakerError(f"{dataset.source}: row {visible(row)} is not used: {visible(reason)}.")
    if row.isdecimal():
        places = [i for i, n in enumerate(dataset.numbers) if n == int(row)]
        at = {tree.row: i for i, tree in enumerate(tokenised.trees)}
        for place in places:
            if place in at:
                return at[place]
    like = nearest(row, list(names)[:2000])
    hint = f" Did you mean {like!r}?" if like else ""
    raise TastemakerError(
        f"{dataset.source}: no row {shorten(row)} is used. Rows are named by their id or else their line, from "
        f"{shorten(next(iter(names)))} on.{hint}"
    )
