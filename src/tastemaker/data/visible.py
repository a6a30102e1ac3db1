"""Text of other people's on a terminal: nothing in it may move the cursor or turn what stands around it."""

from __future__ import annotations


def visible(text: str, *, ascii_only: bool = False) -> str:
    r"""`text` with every character that does not print as an escape: \n, \x1b, \u202e.

    Escape sequences, control characters (C1 too), marks that turn the direction of writing, invisible and
    private characters. `ascii_only` does so for all beyond ASCII, for outputs that can write no other.
    """
    if text.isprintable() and (text.isascii() or not ascii_only):
        return text
    return "".join(
        c if c.isprintable() and (c.isascii() or not ascii_only) else c.encode("unicode_escape").decode()
        for c in text
    )
