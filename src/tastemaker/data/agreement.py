"""Whether a policy and its reward model read the same tokens: same vocabulary, same template, same ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tastemaker.data.encoding import Encoder
from tastemaker.data.measures import Rows, RowTally
from tastemaker.data.problems import Unusable
from tastemaker.data.rendering import is_conversation, render
from tastemaker.data.template import ChatTemplate
from tastemaker.data.visible import visible
from tastemaker.types import Demonstration, Question, Record

COMPARED = 64
"""Records whose ids are compared."""


@dataclass(frozen=True)
class Agreement:
    """A policy's tokens against its reward model's.

    A reward model scores the policy's own token ids. It was trained on chats written by its template, so a
    policy that writes them otherwise is scored on texts the reward model has never seen the like of.
    """

    same_vocabulary: bool
    """Every token of the policy has the same id in the reward model."""
    same_template: bool
    """Both chat templates are the same text, or no chat template is needed."""
    compared: int
    """Records encoded with both."""
    different: Rows
    """Those of which the two make different ids."""
    first: str
    """The first difference in words; "" where there is none."""

    @property
    def agree(self) -> bool:
        return self.same_vocabulary and not self.different.count

    def to_line(self) -> str:
        """One line for a person."""
        if self.agree:
            same = "" if self.same_template else ", although their chat templates are not the same text"
            return f"policy and reward model make the same tokens of {self.compared} compared records{same}"
        problems = [] if self.same_vocabulary else ["their vocabularies differ"]
        if self.different.count:
            problems.append(f"{self.different.count} of {self.compared} records become other tokens")
        return f"policy and reward model do not agree: {'; '.join(problems)} ({self.first})"


def agreement(
    records: Sequence[Record], policy: Any, reward: Any, chat_template: Any = None, control_tokens: str = "text"
) -> Agreement:
    """Encodes the first 64 records that both can encode, each with its own template, without any limit.

    `policy` and `reward` are transformers tokenizers; `chat_template` is the policy's setting (see `tokenise`).
    """
    ours = _Reader(policy, ChatTemplate(policy, chat_template, control_tokens))
    theirs = _Reader(reward, ChatTemplate(reward, None, control_tokens))
    known = reward.get_vocab()
    lacking = next((t for t, i in policy.get_vocab().items() if known.get(t) != i), None)
    different = RowTally()
    first = "" if lacking is None else f"the token {visible(lacking)!r} has another id or none"
    compared = 0
    for number, asked in enumerate(islice(records, COMPARED)):
        record = _answered(asked)
        a = ours.ids(record)
        if a is None:
            continue
        compared += 1
        b = theirs.ids(record)
        if a != b:
            row = record.row or str(number)
            different.add(row)
            first = first or f"row {visible(row)}: {_difference(a, b, policy, reward)}"
    return Agreement(
        same_vocabulary=lacking is None,
        same_template=ours.template.source == theirs.template.source or not any(map(is_conversation, records)),
        compared=compared,
        different=different.done(),
        first=first,
    )


def _answered(record: Record) -> Record:
    """A question with some answer, so that how a response ends is compared too."""
    if not isinstance(record, Question):
        return record
    return Demonstration(prompt=record.prompt, response=record.answer or "Yes.", row=record.row)


class _Reader:
    """One model's way from a record to ids."""

    def __init__(self, tokenizer: Any, template: ChatTemplate) -> None:
        self.encoder = Encoder(tokenizer)
        self.template = template
        self.bos = tokenizer.bos_token if self.encoder.prefix else None

    def ids(self, record: Record) -> list[list[int]] | None:
        """Prompt and responses; None where this model cannot write the record."""
        if is_conversation(record) and not self.template:
            return None
        try:
            text = render(record, self.template, bos=self.bos, eos=self.encoder.tokenizer.eos_token)
            self.encoder.learn([text])
            prompt = self.encoder.prompt(text)[0]
            return [prompt, *(self.encoder.response(text, k).ids for k in range(len(text.responses)))]
        except Unusable:
            return None


def _difference(ours: list[list[int]], theirs: list[list[int]] | None, policy: Any, reward: Any) -> str:
    """Where two encodings part, with the tokens on both sides."""
    if theirs is None:
        return "the reward model's chat template cannot write it"
    for part, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            place = "prompt" if part == 0 else f"response {part}"
            return f"{place}, token {at + 1}: {_token(policy, a, at)} against {_token(reward, b, at)}"
    return "the same"


def _token(tokenizer: Any, ids: list[int], at: int) -> str:
    if at >= len(ids):
        return "the end"
    text = str(tokenizer.decode([ids[at]], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    return f"'{visible(text)}' ({ids[at]})"
