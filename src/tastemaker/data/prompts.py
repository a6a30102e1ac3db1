"""Where the prompt ends and the responses begin."""

from __future__ import annotations

from collections.abc import Sequence

from tastemaker.data.dialogue import (
    is_dialogue,
    parse_dialogue,
    shared_prefix,
    simplify,
    split_dialogue,
    turns,
)
from tastemaker.data.problems import RowError, Unusable
from tastemaker.types import Message, Text

NO_SHARED_PROMPT = "no shared prompt"


def style(*texts: Text) -> str:
    """How the texts of a row are written: "conversational", "dialogue" (raw hh-rlhf) or "plain"."""
    if any(not isinstance(t, str) for t in texts):
        return "conversational"
    return "dialogue" if any(is_dialogue(t) for t in texts) else "plain"


def separate(prompt: Text | None, responses: Sequence[Text], field: str) -> tuple[Text, tuple[Text, ...]]:
    """(prompt, responses) in the one form the rest expects.

    Messages stay messages; raw hh-rlhf dialogues become messages with a stripped response; a response of
    one assistant turn becomes text. Without a prompt column the prompt is what the texts share: leading
    messages, a dialogue through its last "Assistant:", or for other strings the common beginning, cut
    between words (TRL's `extract_prompt`), which may be empty. Raises Unusable where dialogues share no
    prompt.
    """
    if len({isinstance(r, str) for r in responses}) > 1:
        raise RowError(field, "one response is text and another is messages")
    if prompt is None:
        return _implicit(responses)
    if isinstance(prompt, str) and is_dialogue(prompt):
        if all(is_dialogue(r) for r in responses):
            return _implicit(responses)
        prompt = parse_dialogue(prompt)
        responses = [r.strip() if isinstance(r, str) else r for r in responses]
    dialogues = [r for r in responses if not isinstance(r, str)]
    if not dialogues:
        return prompt, tuple(responses)
    return _explicit(prompt, dialogues)


def opening(text: Text) -> Text:
    """What stands before the last answer of a conversation; "" for plain text."""
    if not isinstance(text, str):
        return text[:-1]
    return parse_dialogue(split_dialogue(text)[0]) if is_dialogue(text) else ""


def last_answer(text: Text) -> Text:
    """The last answer of a conversation; plain text as it is."""
    if not isinstance(text, str):
        return simplify(text[-1:])
    return split_dialogue(text)[1] if is_dialogue(text) else text


def _implicit(responses: Sequence[Text]) -> tuple[Text, tuple[Text, ...]]:
    dialogues = [r for r in responses if not isinstance(r, str)]
    if dialogues:
        return _cut(dialogues, shared_prefix(dialogues) if all(dialogues) else 0)
    texts = [r for r in responses if isinstance(r, str)]
    if any(is_dialogue(t) for t in texts):
        if not all(is_dialogue(t) for t in texts):
            raise Unusable(NO_SHARED_PROMPT)
        heads = [split_dialogue(t) for t in texts]
        if len({head for head, _ in heads}) > 1:
            raise Unusable(NO_SHARED_PROMPT)
        return parse_dialogue(heads[0][0]), tuple(tail for _, tail in heads)
    end = _common_beginning(texts)
    return texts[0][:end], tuple(t[end:] for t in texts)


def _cut(dialogues: Sequence[tuple[Message, ...]], n: int) -> tuple[Text, tuple[Text, ...]]:
    if n == 0:
        raise Unusable(NO_SHARED_PROMPT)
    return dialogues[0][:n], tuple(simplify(d[n:]) for d in dialogues)


def _explicit(prompt: Text, dialogues: Sequence[tuple[Message, ...]]) -> tuple[Text, tuple[Text, ...]]:
    """Some data sets repeat the prompt at the head of every response."""
    head = turns(prompt, "user")
    n = len(head)
    if all(d[:n] == head and len(d) > n for d in dialogues):
        return _cut(dialogues, n)
    if isinstance(prompt, str) and any(d[:1] != () and d[0].role != "assistant" for d in dialogues):
        n = shared_prefix(dialogues) if all(dialogues) else 0
        asked = [m.content.strip() for m in dialogues[0][:n] if m.role == "user"]
        if prompt.strip() not in asked:
            raise Unusable(NO_SHARED_PROMPT)
        return _cut(dialogues, n)
    return head, tuple(simplify(d) for d in dialogues)


def _common_beginning(texts: Sequence[str]) -> int:
    first, last = min(texts), max(texts)
    n = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    if n == len(first) == len(last):
        return 0
    # A word that only begins alike is the responses' own; the space before it goes with it.
    return max((i for i in range(n) if first[i].isspace()), default=0)
