"""Chat templates: the only caller of `tokenizer.apply_chat_template`.

Text that looks like a control token stays text. A template is given contents in which every such string
carries an invisible mark after its first character; the rendering is cut at the marks and each piece is
tokenised on its own, so that the only control tokens are those that the template wrote. This works for any
template, since a template moves and trims contents but does not look inside words. Where one does (the
rendering without marks differs from the plain one), the row is refused rather than read otherwise.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from jinja2 import TemplateError, TemplateSyntaxError

from tastemaker.data.problems import Unusable
from tastemaker.data.visible import visible
from tastemaker.types import Message, TastemakerError

PLAIN = "plain"

# hh-rlhf's own way to write a dialogue, for models that know no other.
_PLAIN_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- set role = message['role'] | capitalize -%}"
    "{{- '\\n\\n' + ('Human' if role == 'User' else role) + ': ' + message['content'] -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '\\n\\nAssistant:' -}}{%- endif -%}"
)


class ChatTemplate:
    r"""A template and the tokenizer it speaks to.

    `chat_template`: None is the tokenizer's own; "plain" writes roles as words ("\n\nHuman: ...
    \n\nAssistant: ..."); else a file with a Jinja template, or the template itself. `control_tokens`:
    "text" keeps control strings inside contents as text; "token" lets the tokenizer read them.
    """

    def __init__(
        self, tokenizer: Any, chat_template: str | Path | None = None, control_tokens: str = "text"
    ) -> None:
        self.tokenizer = tokenizer
        self.source = _resolve(tokenizer, chat_template)
        self.origin = "tokenizer" if chat_template is None else PLAIN if chat_template == PLAIN else "given"
        self.guards = control_tokens == "text"

    def __bool__(self) -> bool:
        return self.source is not None

    @property
    def sha256(self) -> str:
        """Of the template's text; "" where there is none."""
        return hashlib.sha256(self.source.encode()).hexdigest() if self.source else ""

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The conversation as text. Raises Unusable where the template refuses it."""
        if not messages:
            return ""
        turns = [{"role": m.role, "content": m.content} for m in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                turns,
                chat_template=self.source,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
            )
        except TemplateSyntaxError as error:
            raise TastemakerError(f"chat template, line {error.lineno}: {error.message}.") from error
        except (TemplateError, TypeError, KeyError, AttributeError) as error:
            raise Unusable(f"the chat template refuses it: {error}") from error
        return cast(str, text)

    # ------------------------------------------------------------------------------- control tokens

    @cached_property
    def control(self) -> Mapping[str, int]:
        """Control strings and their ids: the special tokens, and what the template writes around turns.

        Added tokens that mark content (`<think>` and the like) are not among them.
        """
        added = {
            str(t.content): (int(i), bool(t.special)) for i, t in self.tokenizer.added_tokens_decoder.items()
        }
        control = {text: i for text, (i, special) in added.items() if special}
        for name in ("bos_token", "eos_token", "pad_token"):
            text = getattr(self.tokenizer, name, None)
            if text:
                control[str(text)] = int(getattr(self.tokenizer, f"{name}_id"))
        written = "".join(self._probes) if self.source else ""
        control |= {t: i for t, (i, _) in added.items() if t in written and not t.isspace()}
        return {text: i for text, i in control.items() if text}

    @cached_property
    def _probes(self) -> tuple[str, ...]:
        a, b, c = (Message("user", "1"), Message("assistant", "2"), Message("user", "3"))
        found: list[str] = []
        for messages in ((a, b, c), (a, b), (a,)):
            try:
                found.append(self.render(messages))
                break
            except Unusable:
                continue
        return tuple(found)

    @cached_property
    def pattern(self) -> re.Pattern[str] | None:
        """Matches any control string, the longest first; None where there are none."""
        names = sorted(self.control, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names))) if names else None

    @cached_property
    def closing(self) -> re.Pattern[str] | None:
        """Matches white space and one control string."""
        return re.compile(rf"\s*(?:{self.pattern.pattern})") if self.pattern else None

    @cached_property
    def end_token(self) -> str | None:
        """The control string that closes an assistant turn; the tokenizer's eos where there is none."""
        eos = cast(str | None, getattr(self.tokenizer, "eos_token", None))
        if not self.source or self.pattern is None:
            return eos
        try:
            text = self.render([Message("user", "1"), Message("assistant", "qzx")])
        except Unusable:
            return eos
        found = self.pattern.search(text, text.rfind("qzx") + 3) if "qzx" in text else None
        return found.group() if found else eos

    @cached_property
    def header(self) -> str:
        r"""What a generation prompt adds to a conversation, e.g. "<|im_start|>assistant\n"."""
        question = [Message("user", "1")]
        try:
            bare = self.render(question)
            opened = self.render(question, add_generation_prompt=True)
        except Unusable:
            return ""
        return opened.removeprefix(bare) if opened.startswith(bare) else ""

    def found_in(self, texts: Iterable[str]) -> list[str]:
        """Control strings inside texts, each as often as it occurs."""
        if self.pattern is None:
            return []
        return [m for text in texts for m in self.pattern.findall(text)]

    def without_end(self, text: str, end: str | None) -> tuple[str, int]:
        """(text without end tokens at its very end, how many there were): formatting twice adds none."""
        removed = 0
        while end and (stripped := text.rstrip()).endswith(end):
            text, removed = stripped[: -len(end)], removed + 1
        return text, removed

    def cut(self, text: str) -> list[str]:
        """Pieces of a text of the user's that hold no control string between them.

        Each control string is cut after its first character. Raises Unusable for one of a single
        character, which cannot be cut.
        """
        if not self.guards or self.pattern is None:
            return [text]
        pieces: list[str] = []
        start = 0
        for match in self.pattern.finditer(text):
            at = _inside(match)
            pieces.append(text[start:at])
            start = at
        return [*pieces, text[start:]]

    def mark(self, text: str, mark: str) -> str:
        """The text with `mark` inside every control string."""
        return mark.join(self.cut(text))


def _inside(match: re.Match[str]) -> int:
    if len(match.group()) < 2:
        raise Unusable(f"holds the control token {match.group()!r}")
    return match.start() + 1


def _resolve(tokenizer: Any, chat_template: str | Path | None) -> str | None:
    if chat_template is None:
        own = getattr(tokenizer, "chat_template", None)
        if isinstance(own, dict):
            named = cast(dict[str, str], own)
            if "default" not in named:
                raise TastemakerError(
                    f"chat_template: this tokenizer has several ({', '.join(named)}) and none called "
                    "'default'. Save one to a file and give that file."
                )
            return named["default"]
        return cast(str | None, own)
    if chat_template == PLAIN:
        return _PLAIN_TEMPLATE
    text = str(chat_template)
    if isinstance(chat_template, str) and ("{{" in text or "{%" in text):
        return text
    path = Path(text).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TastemakerError(
            f"chat_template: {text!r} is neither 'plain' nor a file with a Jinja template: {error}."
        ) from error


def free_characters(texts: Iterable[str]) -> Iterator[str]:
    """Private-use characters that occur in none of the texts, to mark places with."""
    taken = set("".join(texts))
    return (c for c in map(chr, range(0xF0000, 0xFFFFE)) if c not in taken)


def require_template(template: ChatTemplate, source: str, row: str) -> None:
    """Raises where there are conversations and nothing to write them with."""
    if not template:
        name = getattr(template.tokenizer, "name_or_path", "") or "this model"
        raise TastemakerError(
            f"{source}: row {visible(row)} is a conversation, and the tokenizer of {name} has no chat "
            "template. Give chat_template (--chat-template): a file with a Jinja template, or 'plain' to write "
            "roles as words "
            '("Human: ... Assistant: ..."). Or take a model that has a template.'
        )
