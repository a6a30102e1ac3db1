"""A reward model with a tokenizer of its own: it is given text, never the policy's token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tastemaker.rewards.results import Decode, Normalisation, completions, prompts, rewarded
from tastemaker.types import Bundles, Record, Rewarded, Text

ScoreTexts = Callable[[Sequence[Text], Sequence[str]], object]
"""(prompts [R] as they stand in the data, responses [R]) -> R numbers (list, array or tensor)."""


class TextReward:
    """`types.Reward` from a function of texts, such as a reward model that applies its own chat template to
    (prompt, response) and tokenises the result itself.

    Ids of one vocabulary mean nothing in another, so what is shared is text: the prompt as the data has it (not
    decoded from the policy's tokens), the response without its end token. Parts: `raw`, before `normalisation`.
    """

    def __init__(
        self,
        score_texts: ScoreTexts,
        decode: Decode,
        *,
        normalisation: Normalisation | None = None,
        name: str = "reward_model",
    ):
        self.name = name
        self._score_texts = score_texts
        self._decode = decode
        self._normalisation = normalisation or Normalisation()

    def __call__(self, batch: Bundles, records: Sequence[Record]) -> Rewarded:
        """Scores [R]; `valid` is False where the function said None.

        Raises:
            TastemakerError: a wrong number of rewards, or one that is not finite, naming its row.
        """
        values = self._score_texts(prompts(batch, records), completions(batch, self._decode))
        said = rewarded(values, batch, self.name)
        return Rewarded(total=self._normalisation(said.total), parts={"raw": said.total}, valid=said.valid)
