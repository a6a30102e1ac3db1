"""What is asked of a judge and what it says: the one small protocol behind every kind of judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from tastemaker.types import Message, Text

Task = Literal["pairwise", "pointwise", "kwise", "critique", "revision"]
MAX_TOKENS = 512
"""Most tokens of an answer, unless something else is said."""
TASKS: tuple[Task, ...] = ("pairwise", "pointwise", "kwise", "critique", "revision")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question to a judge: as the messages that a text model reads, and as what they are about.

    A judge that reads text uses `messages` alone. A program that judges (the town's critic) need not take the
    text apart again: `prompt` and `responses` say the same, the responses in the order in which they are shown.
    """

    messages: tuple[Message, ...]
    prompt: Text
    responses: tuple[str, ...]
    task: Task
    tag: str
    """The mark that the verdict must carry. It stands nowhere in the prompt or the responses."""
    choices: tuple[str, ...] = ()
    """The verdicts there are; with log-probs asked for, what is to be scored."""
    logps: bool = False
    """The probabilities of `choices` as the next words are wanted, and no text."""
    principle: str = ""
    """Id of the principle judged by."""
    critique: str = ""
    """What was found wanting; for revisions."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a judge said."""

    text: str = ""
    logps: Mapping[str, float] = field(default_factory=dict[str, float])
    """Log-probability of each choice, as far as the judge tells; not normalised over the choices."""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    """In the currency of the prices the judge was given."""
    seconds: float = 0.0
    refused: str = ""
    """Why the judge could not be made to answer this one question (too long, say); "" where it answered."""


class JudgeModel(Protocol):
    """Whatever answers: a model in this process, an HTTP endpoint, a simulated critic."""

    @property
    def name(self) -> str:
        """Who it is, in full: two judges of one name must answer alike. Cached answers are found by it."""
        ...

    def answer(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        """Answers in any order, each with the index of its ask, as soon as it is there.

        Raises TastemakerError where it cannot go on; what was given before stays good.
        """
        ...


def manner(temperature: float, max_tokens: int) -> str:
    """What a judge's name says of how it speaks: all that changes its answers, where it is not as usual."""
    sampled = f" temperature {temperature:g}" if temperature else ""
    return sampled + (f" up to {max_tokens} tokens" if max_tokens != MAX_TOKENS else "")
