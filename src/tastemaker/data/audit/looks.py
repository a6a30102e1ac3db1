"""How a response is written: its formatting, whether it looks cut off, whether its characters are damaged."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tastemaker.data.audit.words import simplified


@dataclass(frozen=True)
class _Trait:
    """Something a response has or has not."""

    needles: tuple[str, ...]
    """One of these must stand in the text, or the pattern is not tried; none: it is always tried."""
    pattern: re.Pattern[str] | None = None
    head: bool = False
    """The pattern must stand at the beginning."""

    def there(self, text: str) -> bool:
        if self.needles and not any(needle in text for needle in self.needles):
            return False
        if self.pattern is None:
            return True
        return (self.pattern.match(text) if self.head else self.pattern.search(text)) is not None


_EMOJI = re.compile("[\u2600-\u27bf\U0001f300-\U0001faff]")
_SORRY = re.compile(
    r"\W*(?:i(?:'|\u2019)?m (?:very |so |really )?(?:sorry|afraid)|sorry|i apologi[sz]e|my apologies|"
    r"i (?:can(?:no|'|\u2019)t|won(?:'|\u2019)t|am (?:unable|not able|sorry))|as an? (?:ai|language model))\b",
    re.IGNORECASE,
)
FORMATS: Mapping[str, _Trait] = {
    "a list": _Trait(("\n",), re.compile(r"^[ \t]*(?:[-*\u2022+]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE)),
    "bold text": _Trait(("**", "__"), re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")),
    "a heading": _Trait(("#",), re.compile(r"^#{1,6} \S", re.MULTILINE)),
    "code": _Trait(("`",), re.compile(r"```|`[^`\n]+`")),
    "a table": _Trait(("|",), re.compile(r"^[ \t]*\|.*\|[ \t]*$", re.MULTILINE)),
    "a link": _Trait(("http://", "https://", "www.")),
    "an emoji": _Trait((), _EMOJI),
    "an exclamation mark": _Trait(("!",)),
    "several paragraphs": _Trait(("\n\n",)),
    "a question at its end": _Trait(("?",), re.compile(r"\?[\"')\u201d\u2019\s]*\Z")),
    "an apology or a refusal at its beginning": _Trait((), _SORRY, head=True),
}
"""Traits of a response by what it then has."""


def formats_of(text: str) -> Iterator[str]:
    """The traits that a response has."""
    plain = simplified(text).isascii()
    for name, trait in FORMATS.items():
        if plain and name == "an emoji":
            continue
        if trait.there(text):
            yield name


# --------------------------------------------------------------------------------------------- cut off

_LONG_ENOUGH = 80
"""Characters from which on an answer that ends in the middle of a sentence is no bare word or name."""
_SENTENCE = re.compile(r"[.!?\u3002\uff01\uff1f\u0964][\"')\u201d\u2019]?\s+\S")
_ITEM = re.compile(r"[ \t]*(?:[-*\u2022+>#|]|\d{1,3}[.)])")
_DANGLING = frozenset(",;(-\u2013\u2014[{<&+=/")


def cut_off(text: str) -> str:
    """Why a response looks cut off, in words; "" where it does not.

    A code block that is never closed, or, from 80 characters on, prose (with at least one finished sentence)
    whose last line is neither finished nor an item, a heading, a link or code. A heuristic: answers that end
    in a signature or a name look cut off, and those cut behind a full stop do not.
    """
    text = text.rstrip()
    if text.count("```") % 2:
        return "a code block is never closed"
    if len(text) < _LONG_ENOUGH or text.endswith("```"):
        return ""
    end = text[-1]
    if not (end.isalnum() or end in _DANGLING):
        return ""
    last = text[text.rfind("\n") + 1 :]
    if _ITEM.match(last) or "http" in last or "`" in last or not _SENTENCE.search(text):
        return ""
    # A short last line is a name, a title or a result; a long one is a sentence.
    words = last.split()
    if len(words) < 5 and end not in _DANGLING:
        return ""
    return f"ends in \u201c{' '.join(words[-4:])[-40:]}\u201d"


# --------------------------------------------------------------------------------------------- damage

_DAMAGED = re.compile(
    "\ufffd|\u00c3[\u0080-\u00bf]|\u00e2\u20ac[\u0080-\u00ff\u2018-\u2122]|&(?:amp|lt|gt|quot|#39);"
)


def damage(text: str) -> str:
    """Signs that a text was decoded wrongly or is still escaped (UTF-8 read as Latin-1, `&amp;`); else ""."""
    if text.isascii() and "&" not in text:
        return ""
    found = _DAMAGED.search(text)
    return f"holds \u201c{found[0]}\u201d" if found else ""
