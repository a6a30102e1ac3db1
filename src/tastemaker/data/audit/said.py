"""What a record says, as digests: equal for equal texts, white space aside."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tastemaker.data.dialogue import plain, turns
from tastemaker.data.measures import ordered_pairs
from tastemaker.data.rendering import responses_of
from tastemaker.types import Comparison, Judgement, Question, Record, StepLabels, Text


def characters(response: Text) -> int:
    """Length without white space at either end; of a conversation, what the assistant says in it."""
    if isinstance(response, str):
        return len(response.strip())
    return sum(len(m.content.strip()) for m in response if m.role == "assistant")


def prompt_characters(prompt: Text) -> int:
    """Length of all turns, without white space at the ends of each."""
    return len(prompt.strip()) if isinstance(prompt, str) else sum(len(m.content.strip()) for m in prompt)


def digest(*parts: str) -> bytes:
    """Of texts, white space aside."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(" ".join(part.split()).encode() + b"\0")
    return found.digest()


def prompt_id(record: Record) -> bytes:
    """Equal for equal prompts, white space aside; for equal texts where there is no prompt.

    A plain prompt and a conversation of that one user turn are the same prompt.
    """
    text = plain(turns(record.prompt, "user"))
    if any(m.content.strip() for m in turns(record.prompt, "user")):
        return digest(text)
    return digest("", *sorted(plain(turns(r, "assistant")) for r in responses_of(record)))


def answers_said(record: Record) -> list[bytes]:
    """A digest of each response; a text and a conversation of that one assistant turn are the same."""
    return [digest(plain(turns(r, "assistant"))) for r in responses_of(record)]


def claims(record: Record, prompt: bytes, said: Sequence[bytes]) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """(claims as (topic, what is claimed of it), all that the record says), as digests. `said` is
    `answers_said(record)`.

    Two records contradict each other where they claim something else of one topic.
    """

    def of(*parts: bytes) -> bytes:
        return hashlib.blake2b(b"".join((prompt, *parts)), digest_size=16).digest()

    if isinstance(record, Comparison):
        about = (b"objective " + digest(record.objective),) if record.objective else ()
        ordered = [(said[i], said[j]) for i, j in ordered_pairs(record.ranking)]
        ranked = sorted(zip(record.ranking, said, strict=True))
        whole = of(*about, *(b"%d " % rank + text for rank, text in ranked))
        return [(of(*about, *sorted(pair)), pair[0]) for pair in ordered], whole
    if isinstance(record, Judgement | StepLabels):
        labels = bytes((record.desirable,) if isinstance(record, Judgement) else record.labels)
        steps = record.steps if isinstance(record, StepLabels) else ()
        return [(of(*said, *map(digest, steps)), labels)], of(*said, labels)
    if isinstance(record, Question):
        answer = digest(record.answer) if record.answer is not None else b""
        return [(of(), answer)] if answer else [], of(answer)
    return [], of(*said)
