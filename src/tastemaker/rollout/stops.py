"""Stop strings: where the decoded text of a response first holds one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tastemaker.types import TastemakerError

UNFINISHED = "\ufffd"
"""What a token that holds part of a character decodes to."""


class StopStrings:
    """Watches the text of many rows; strings may begin and end anywhere within tokens.

    The text of a row is its response's tokens decoded together, special tokens included, nothing cleaned up. To
    decode it at every token would take longer than small models take to write it, so it is decoded only where
    the new token can be the last of a stop string: its own text holds the last character of one, or part of a
    character.
    """

    def __init__(self, strings: Sequence[str], tokenizer: object):
        """Raises TastemakerError without a tokenizer."""
        if not callable(getattr(tokenizer, "decode", None)):
            raise TastemakerError(
                f"stop={tuple(strings)!r} is a matter of text, and this generator was given no tokenizer; pass "
                "it one: LocalGenerator(models, tokenizer)"
            )
        self._strings = tuple(strings)
        self._last = {string[-1] for string in strings}
        self._tokenizer = tokenizer
        self._may_end: dict[int, bool] = {}
        self._rows: dict[int, list[int]] = {}
        self.ended: dict[int, int] = {}
        """Of each row in which a string is complete: tokens up to and with the one that completed it."""

    def add(self, rows: Sequence[int], tokens: Sequence[int]) -> list[int]:
        """Appends a token to each of these rows; the indices (into `rows`) of those that now hold a string."""
        found: list[int] = []
        for i, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            if row in self.ended:
                continue
            written = self._rows.setdefault(row, [])
            written.append(token)
            if self._can_end(token) and any(string in self._text(written) for string in self._strings):
                self.ended[row] = len(written)
                found.append(i)
        return found

    def _can_end(self, token: int) -> bool:
        known = self._may_end.get(token)
        if known is None:
            # twice: some tokenizers drop a leading blank, or put one between tokens
            text = self._text([token, token])
            known = self._may_end[token] = UNFINISHED in text or not self._last.isdisjoint(text)
        return known

    def _text(self, ids: Sequence[int]) -> str:
        decode: Callable[..., Any] = self._tokenizer.decode  # pyright: ignore[reportAttributeAccessIssue]
        return str(decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
