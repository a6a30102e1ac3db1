"""Conversations: lists of messages, ShareGPT turns, and raw hh-rlhf dialogues."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import cast

from tastemaker.data.problems import RowError, shorten
from tastemaker.types import Message, Text

# ShareGPT's names of who speaks, and hh-rlhf's.
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
}
_TURN = re.compile(r"\n\n(Human|Assistant):")
_LAST = "\n\nAssistant:"


def parse_messages(value: object, field: str) -> tuple[Message, ...]:
    """A list of {"role", "content"}, or of ShareGPT's {"from", "value"}.

    Content may be a list of {"type": "text"} parts. Anything that would be lost (tool calls, images) is an
    error.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise RowError(field, f"should be a list of messages, is {shorten(value)}")
    return tuple(_message(m, f"{field}[{i}]") for i, m in enumerate(cast(Sequence[object], value)))


def _message(value: object, field: str) -> Message:
    if isinstance(value, Message):
        return value
    if not isinstance(value, Mapping):
        raise RowError(field, f'should be {{"role": ..., "content": ...}}, is {shorten(value)}')
    message = cast(Mapping[str, object], value)
    lost = next((k for k in ("tool_calls", "function_call", "images") if message.get(k)), None)
    if lost is not None:
        raise RowError(field, f"{lost} cannot be read: only text can")
    role, content = message.get("role"), message.get("content")
    if role is None and content is None and ("from" in message or "value" in message):
        role, content = message.get("from"), message.get("value")
    if not isinstance(role, str) or not role:
        raise RowError(field, f"role should be text, is {shorten(role)}")
    return Message(_ROLES.get(role.lower(), role), check_text(_joined(content, field), field))


def _joined(content: object, field: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise RowError(field, f"content should be text, is {shorten(content)}")
    texts: list[str] = []
    for part in cast(Sequence[object], content):
        text = cast(Mapping[str, object], part).get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            raise RowError(field, f"a part of the content is not text: {shorten(part)}")
        texts.append(text)
    return "".join(texts)


def check_text(text: str, field: str) -> str:
    """`text` itself, where every tokenizer and every file can hold it."""
    if "\0" in text:
        raise RowError(field, f"holds a NUL character at {text.index(chr(0)) + 1}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(field, f"holds half a surrogate pair at character {error.start + 1}") from None
    return text


def is_dialogue(text: Text) -> bool:
    r"""Whether this is a raw hh-rlhf dialogue: "\n\nHuman: ...\n\nAssistant: ...", in one string."""
    return isinstance(text, str) and text.lstrip().startswith("Human:") and _LAST in text


def split_dialogue(text: str) -> tuple[str, str]:
    r"""(everything through the last "\n\nAssistant:", the response after it, stripped)."""
    at = text.rindex(_LAST) + len(_LAST)
    return text[:at], text[at:].strip()


def parse_dialogue(text: str) -> tuple[Message, ...]:
    r"""The turns of a raw dialogue, stripped; human becomes user.

    A last assistant turn that is empty (the dialogue ends with "\n\nAssistant:") is the one to be written
    and is left out. Consecutive turns of one speaker are joined by a blank line, since chat templates
    refuse them.
    """
    text = "\n\n" + text.lstrip()
    parts = _TURN.split(text)
    turns: list[tuple[str, str]] = []
    for speaker, said in zip(parts[1::2], parts[2::2], strict=True):
        if turns and turns[-1][0] == speaker:
            joined = f"{turns[-1][1]}\n\n{said.strip()}".strip()
            turns[-1] = (speaker, joined)
        else:
            turns.append((speaker, said.strip()))
    if turns and turns[-1] == ("Assistant", ""):
        turns.pop()
    return tuple(Message(_ROLES[speaker.lower()], said) for speaker, said in turns)


def simplify(response: tuple[Message, ...]) -> Text:
    """A response of one assistant turn as plain text: the one form everything else expects."""
    if len(response) == 1 and response[0].role == "assistant":
        return response[0].content
    return response


def turns(text: Text, role: str) -> tuple[Message, ...]:
    """Text as messages; plain text is one turn of `role`."""
    return (Message(role, text),) if isinstance(text, str) else text


def plain(text: Text) -> str:
    """Text for comparing and hashing: contents only, or roles and contents."""
    if isinstance(text, str):
        return text
    return "\n\n".join(f"{m.role}: {m.content}" for m in text)


def shared_prefix(dialogues: Sequence[tuple[Message, ...]]) -> int:
    """How many messages all dialogues begin with alike, leaving at least one of each."""
    limit = min(len(d) for d in dialogues) - 1
    n = 0
    while n < limit and all(d[n] == dialogues[0][n] for d in dialogues):
        n += 1
    return n
