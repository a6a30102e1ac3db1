"""A judge in this process: any model that can be loaded, asked in its own chat form."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from tastemaker.data import tokenise
from tastemaker.feedback.judge.asking import MAX_TOKENS, Ask, Reply, manner
from tastemaker.types import (
    Bundles,
    Comparison,
    Generator,
    Message,
    Models,
    Sampling,
    TastemakerError,
    Text,
    Tree,
)

CHUNK = 16
"""Questions answered together; what is finished is kept after each."""


class LocalModel:
    """`JudgeModel` over a model in this process.

    Text is drawn by `generator`; probabilities are read by scoring each choice as a response to the same
    prompt. A tokenizer without a chat template is asked in plain text. What the data spell never becomes a
    control token.
    """

    def __init__(
        self,
        models: Models,
        generator: Generator,
        tokenizer: Any,
        *,
        name: str,
        temperature: float = 0.0,
        max_tokens: int = MAX_TOKENS,
        max_length: int = 8192,
    ) -> None:
        """`name`: with the hash of the weights in it, since answers are kept under it. `models` play the role
        `policy`. `max_length`: tokens of a question; a longer one is refused.
        """
        self._models = models
        self._generator = generator
        self._tokenizer = tokenizer
        self._sampling = Sampling(max_new_tokens=max_tokens, temperature=temperature)
        self._max_length = max_length
        self._name = name + manner(temperature, max_tokens)

    @property
    def name(self) -> str:
        return self._name

    def answer(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        """In order, some at a time."""
        for start in range(0, len(asks), CHUNK):
            part = asks[start : start + CHUNK]
            for index, reply in self._part(part):
                yield start + index, reply

    def _part(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        started = time.perf_counter()
        trees, reason = self._trees(asks)
        groups: dict[bool, list[int]] = {}
        for i, ask in enumerate(asks):
            if i in trees:
                groups.setdefault(ask.logps, []).append(i)
            else:
                yield i, Reply(refused=reason)
        for logps, members in groups.items():
            answer = self._logps if logps else self._texts
            replies = answer([asks[i] for i in members], [trees[i] for i in members])
            each = (time.perf_counter() - started) / len(members)
            for i, reply in zip(members, replies, strict=True):
                yield i, replace(reply, tokens_in=len(trees[i].prompt), seconds=each)

    def _trees(self, asks: Sequence[Ask]) -> tuple[dict[int, Tree], str]:
        """Prompts as token ids, those with choices to score with the choices as responses; and why others are
        not there.
        """
        reason = f"longer than {self._max_length} tokens"
        for folded in (False, True):  # some chat templates know no system turn
            records = [self._record(i, ask, folded) for i, ask in enumerate(asks)]
            try:
                read = tokenise(
                    records,
                    self._tokenizer,
                    max_length=self._max_length,
                    truncation_mode="drop",
                    keep_ties=True,
                )
            except TastemakerError as error:
                reason = str(error)
                continue
            return {int(r.row): tree for r, tree in zip(read.records, read.trees, strict=True)}, reason
        return {}, reason

    def _record(self, index: int, ask: Ask, folded: bool) -> Comparison:
        """The question with what may be answered; text judges get one response that is taken off again."""
        content = "\n\n".join(message.content for message in ask.messages)
        prompt: Text = ask.messages
        if not getattr(self._tokenizer, "chat_template", None):
            prompt = content + "\n\n"
        elif folded:
            prompt = (Message("user", content),)
        choices = ask.choices if ask.logps else ("A", "B")
        return Comparison(prompt=prompt, responses=choices, ranking=(0,) * len(choices), row=str(index))

    def _texts(self, asks: Sequence[Ask], trees: Sequence[Tree]) -> list[Reply]:
        """Each question draws from its own stream, whichever others it is asked with."""
        decode: Callable[..., Any] = self._tokenizer.decode
        numbered = [
            Tree(prompt=tree.prompt, row=int(ask.tag[:7], 16)) for ask, tree in zip(asks, trees, strict=True)
        ]
        drawn = self._generator.generate(Bundles(trees=tuple(numbered)), self._sampling, seed=asks[0].seed)
        return [
            Reply(text=str(decode(ids, skip_special_tokens=True)), tokens_out=len(ids))
            for ids in (tree.responses[0].tolist() for tree in drawn.trees)
        ]

    def _logps(self, asks: Sequence[Ask], trees: Sequence[Tree]) -> list[Reply]:
        bare = [
            replace(tree, responses=tuple(ids[:-1] if len(ids) > 1 else ids for ids in tree.responses))
            for tree in trees  # the end token is no part of the verdict
        ]
        batch = Bundles(trees=tuple(bare)).to(self._models.device)
        logps = self._models.score("policy", batch).logps
        assert logps is not None
        found = iter(batch.sum_by_response(logps).tolist())
        return [Reply(logps={choice: next(found) for choice in ask.choices}) for ask in asks]
