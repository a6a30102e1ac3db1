"""An engine that fails is asked again, and what it answers is looked at before anything is learned from it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from tastemaker.types import Bundles, Generator, Sampling, TastemakerError, Tree

log = logging.getLogger(__name__)

FAILURES = (OSError, EOFError, RuntimeError)
"""What an engine out of reach or out of memory raises: connections lost and timeouts are OSErrors. A
`TastemakerError` says what the user can mend, and no asking again mends it."""


class RetryingGenerator:
    """`types.Generator` over another engine, `attempts` times.

    A batch is whole or it is not there: every prompt has `sampling.n` responses, in order, with a
    log-probability for each of their tokens. An engine that dies in the middle of a batch may leave prompts
    without answer or with some of their group; these groups are dropped and asked for again, the others are
    kept. Since sample k of tree `row` depends on (seed, row, k) alone, a batch that took three attempts equals
    one that took one.
    """

    def __init__(
        self,
        engine: Generator,
        *,
        attempts: int = 3,
        wait: float = 1.0,
        sleep: Callable[[float], object] = time.sleep,
    ):
        """`attempts`: calls in all for one batch. `wait`: seconds before the second, twice as many before each
        further one.
        """
        if attempts < 1:
            raise TastemakerError(f"attempts is {attempts}; it must be 1 at least")
        self._engine = engine
        self._attempts = attempts
        self._wait = wait
        self._sleep = sleep

    def generate(self, prompts: Bundles, sampling: Sampling, *, seed: int) -> Bundles:
        """Completes every prompt with `sampling.n` responses.

        Raises:
            TastemakerError: the engine's own, at once; or, after the last attempt, what it failed of.
        """
        whole: dict[int, Bundles] = {}
        missing = list(range(len(prompts)))
        trouble = ""
        for attempt in range(1, self._attempts + 1):
            asked = prompts if len(missing) == len(prompts) else prompts.take(missing)
            try:
                answer = self._engine.generate(asked, sampling, seed=seed)
            except TastemakerError:
                raise
            except FAILURES as error:
                trouble = f"{type(error).__name__}: {error}"
            else:
                good = whole_groups(asked, answer, sampling.n)
                if len(good) == len(prompts):
                    return answer
                whole |= {missing[i]: answer.take([at]) for i, at in good.items()}
                missing = [i for i in missing if i not in whole]
                if not missing:
                    return joined(prompts, [whole[i] for i in range(len(prompts))], answer)
                trouble = f"it answered {len(good)} of {len(asked)} prompts in full"
            if attempt < self._attempts:
                log.warning(
                    "the engine failed (attempt %d of %d; %s): %d of %d prompts are asked again, nothing of "
                    "them is learned from",
                    attempt,
                    self._attempts,
                    trouble,
                    len(missing),
                    len(prompts),
                )
                self._sleep(self._wait * 2 ** (attempt - 1))
        rows = [prompts.trees[i].row for i in missing]
        raise TastemakerError(
            f"the engine failed {self._attempts} times; the last time: {trouble}. {len(missing)} of "
            f"{len(prompts)} prompts have no full group of {sampling.n} (rows {rows[:10]} of the data), so "
            "nothing of this batch was learned from. Look at the engine, then give the same command: the run "
            "goes on from its last checkpoint."
        )


def whole_groups(prompts: Bundles, answer: Bundles, n: int) -> dict[int, int]:
    """Place of a prompt -> place of its tree in the answer, for prompts answered in full and in their order:
    `n` responses, none of them empty, a finite log-probability for each token.
    """
    logps = answer.token_columns.get("sampled_logps")
    if logps is None or len(logps) != len(answer.targets):
        return {}
    broken = set(answer.tree[answer.response[~logps.isfinite()]].tolist())
    found: dict[int, int] = {}
    place = 0
    for at, tree in enumerate(answer.trees):
        own = next((i for i in range(place, len(prompts)) if _answers(prompts.trees[i], tree)), None)
        if own is None:
            continue
        place = own + 1
        if len(tree.responses) == len(tree.ended) == n and all(map(len, tree.responses)) and at not in broken:
            found[own] = at
    return found


def _answers(prompt: Tree, tree: Tree) -> bool:
    return prompt.row == tree.row and torch.equal(prompt.prompt, tree.prompt)


def joined(prompts: Bundles, parts: Sequence[Bundles], like: Bundles) -> Bundles:
    """The groups of all prompts as one batch, in the prompts' order, with the prompts' columns."""

    def columns(of: Callable[[Bundles], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([of(part)[name] for part in parts]) for name in of(like)}

    return Bundles(
        trees=tuple(part.trees[0] for part in parts),
        token_columns=columns(lambda part: part.token_columns),
        response_columns=columns(lambda part: part.response_columns),
        tree_columns=prompts.tree_columns,
        device=prompts.device,
    )
