"""Rewards: from a model, from a function, from texts."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from tastemaker.rewards import FunctionReward, LearnedReward, Normalisation, TextReward
from tastemaker.types import (
    Bundles,
    Comparison,
    Message,
    Question,
    Reward,
    Scores,
    TastemakerError,
    Tree,
)

WORDS = ["<pad>", "<bos>", "<eos>", "what", "is", "two", "three", "four", "sky", "blue"]
EOS = 2


def decode(ids: torch.Tensor) -> str:
    return " ".join(WORDS[i] for i in ids.tolist())


def tokens(text: str) -> torch.Tensor:
    return torch.tensor([WORDS.index(word) for word in text.split()])


def make() -> tuple[Bundles, list[Question]]:
    """Two trees of 2 and 1 responses; rows 7 and 3."""
    batch = Bundles(
        (
            Tree(
                tokens("<bos> what is two"),
                (tokens("four <eos>"), tokens("three three")),
                ended=(True, False),
                row=7,
            ),
            Tree(tokens("<bos> what is sky"), (tokens("blue <eos>"),), ended=(True,), row=3),
        )
    )
    records = [
        Question(prompt="what is two", answer="four", columns={"level": 1}),
        Question(prompt="what is sky", columns={"topic": "nature"}),
    ]
    return batch, records


class FixedModels:
    """Scores that are a known function of the ids: the sum of the response's ids."""

    device = torch.device("cpu")

    def __init__(self, bias: float = 0.0):
        self.bias = bias
        self.calls: list[str] = []

    def score(self, role, batch, *, temperature=1.0, entropy=False):
        self.calls.append(role)
        return Scores(rewards=batch.sum_by_response(batch.targets.float()) + self.bias)

    forward = score

    def scope(self, role):
        return nullcontext()


class TestLearned:
    def test_scores_each_response_with_the_model(self):
        batch, records = make()
        models = FixedModels()
        reward: Reward = LearnedReward(models)
        said = reward(batch, records)
        assert said.total.tolist() == [9.0, 12.0, 11.0]
        assert said.valid is None
        assert models.calls == ["reward"]

    def test_C14_normalisation_is_kept_with_the_model_and_applied_once(self, tmp_path):
        batch, records = make()
        models = FixedModels(bias=100.0)
        raw = LearnedReward(models)(batch, records).total
        Normalisation.of(raw, scaled=True).save(tmp_path)
        reward = LearnedReward(models, normalisation=Normalisation.load(tmp_path))
        for _ in range(2):
            said = reward(batch, records)
            assert said.parts["raw"].tolist() == raw.tolist()
            assert said.total.mean().item() == pytest.approx(0.0, abs=1e-5)
            assert said.total.std(correction=0).item() == pytest.approx(1.0, abs=1e-5)
        centred = LearnedReward(models, normalisation=Normalisation.of(raw))(batch, records).total
        torch.testing.assert_close(centred, raw - raw.mean())

    def test_no_normalisation_file_means_raw(self, tmp_path):
        assert Normalisation.load(tmp_path) is None
        (tmp_path / "reward_normalisation.json").write_text('{"mean": "x"}')
        with pytest.raises(TastemakerError, match=r"reward_normalisation.json: not a reward normalisation"):
            Normalisation.load(tmp_path)
        with pytest.raises(TastemakerError, match="scale > 0"):
            Normalisation.of(torch.ones(3), scaled=True)
        with pytest.raises(TastemakerError, match="no rewards"):
            Normalisation.of(torch.ones(0))

    def test_D17_a_reward_that_is_not_finite_names_its_row(self):
        batch, records = make()
        with pytest.raises(
            TastemakerError, match=r"reward_model \(role 'reward'\) gave nan for row 7, response 0"
        ):
            LearnedReward(FixedModels(bias=float("nan")))(batch, records)


class TestFunction:
    def test_D17_functions_see_completions_alone_in_order(self):
        batch, records = make()
        seen = {}

        def length(prompts, completions, completion_ids, answer, **columns):
            seen.update(prompts=prompts, completions=completions, ids=completion_ids, answer=answer, **columns)
            return [float(len(c)) for c in completions]

        said = FunctionReward(length, decode)(batch, records)
        assert seen["prompts"] == ["what is two", "what is two", "what is sky"]
        assert seen["completions"] == ["four", "three three", "blue"]
        assert seen["ids"] == [[7, 2], [6, 6], [9, 2]]
        assert seen["answer"] == ["four", "four", None]
        assert seen["level"] == [1, 1, None]
        assert seen["topic"] == [None, None, "nature"]
        assert said.total.tolist() == [4.0, 11.0, 4.0]
        assert said.valid is None

    def test_D17_the_order_of_trees_is_the_order_of_rewards(self):
        batch, records = make()

        def is_blue(completions):
            return [float(c == "blue") for c in completions]

        reward = FunctionReward(is_blue, decode)
        assert reward(batch, records).total.tolist() == [0.0, 0.0, 1.0]
        assert reward(batch.take([1, 0]), records[::-1]).total.tolist() == [1.0, 0.0, 0.0]

    def test_conversations_have_the_form_of_messages(self):
        batch, _ = make()
        talk = (Message("user", "what is two"),)
        records = [
            Comparison(prompt=talk, responses=("a", "b")),
            Comparison(prompt="plain", responses=("a", "b")),
        ]
        seen = {}

        def f(prompts, completions):
            seen.update(prompts=prompts, completions=completions)
            return [1, 2, 3]

        assert FunctionReward(f, decode)(batch, records).total.tolist() == [1.0, 2.0, 3.0]
        assert seen["prompts"] == [[{"role": "user", "content": "what is two"}]] * 2 + ["plain"]
        assert seen["completions"][1:] == [[{"role": "assistant", "content": "three three"}], "blue"]

    @pytest.mark.parametrize("values", [torch.tensor([1.0, 2, 3]), (1, True, 3.5), [1.0, 2.0, 3.0]])
    def test_any_sequence_of_numbers_will_do(self, values):
        batch, records = make()
        said = FunctionReward(lambda **_: values, decode, name="some")(batch, records)
        assert said.total.tolist() == [float(v) for v in values]

    def test_none_means_not_applicable(self):
        batch, records = make()
        said = FunctionReward(lambda completions: [1.0, None, 0.0], decode, name="some")(batch, records)
        assert said.valid is not None
        assert said.valid.tolist() == [True, False, True]
        assert said.total[said.valid].tolist() == [1.0, 0.0]
        assert said.total.isnan().tolist() == [False, True, False]

    def test_async_functions(self):
        batch, records = make()

        async def later(completions, **columns):
            return [0.5 for _ in completions]

        assert FunctionReward(later, decode)(batch, records).total.tolist() == [0.5] * 3

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([1.0, 2.0], r"reward function f gave 2 rewards for 3 responses"),
            ([1.0, float("nan"), 2.0], r"reward function f gave nan for row 7, response 1; give a finite"),
            ([1.0, 2.0, float("inf")], r"gave inf for row 3, response 0"),
            ([1.0, "good", 2.0], r"gave 'good' for row 7, response 1: not a number"),
            (1.0, r"gave float; it must give a list of 3 numbers"),
            ({"a": 1}, r"gave dict"),
        ],
    )
    def test_D17_what_is_no_reward_stops_and_names_the_row(self, values, message):
        batch, records = make()

        def f(completions):
            return values

        with pytest.raises(TastemakerError, match=message):
            FunctionReward(f, decode)(batch, records)

    def test_a_raising_function_names_itself_and_the_row(self):
        batch, records = make()

        def fragile(completions):
            return [1.0 / (c != "blue") for c in completions]

        with pytest.raises(
            TastemakerError, match=r"fragile raised ZeroDivisionError on row 3, response 0: .*zero"
        ):
            FunctionReward(fragile, decode)(batch, records)

        def together(completions):
            return [1.0 / (len(completions) - 3)] * len(completions)

        with pytest.raises(
            TastemakerError, match=r"on the batch of rows 7, 3 \(on none of its responses alone\)"
        ):
            FunctionReward(together, decode)(batch, records)

    def test_a_missing_column_is_named(self):
        batch, records = make()

        def f(completions, solution):
            return [0.0] * len(completions)

        with pytest.raises(
            TastemakerError, match=r"f wants solution, which the data do not have; .*answer, comp"
        ):
            FunctionReward(f, decode)(batch, records)

    def test_one_record_a_tree(self):
        batch, records = make()
        with pytest.raises(ValueError, match="1 records for 2 trees"):
            FunctionReward(lambda completions: [], decode)(batch, records[:1])


class TestText:
    def test_D17_another_tokenizer_gets_text(self):
        batch, records = make()
        seen = {}

        def score(prompts, responses):
            seen.update(prompts=prompts, responses=responses)
            return torch.tensor([3.0, 5.0, 7.0])

        said = TextReward(score, decode, normalisation=Normalisation(mean=5.0, scale=2.0))(batch, records)
        assert seen["prompts"] == ["what is two", "what is two", "what is sky"]
        assert seen["responses"] == ["four", "three three", "blue"]
        assert said.total.tolist() == [-1.0, 0.0, 1.0]
        assert said.parts["raw"].tolist() == [3.0, 5.0, 7.0]

    def test_a_wrong_count_is_refused(self):
        batch, records = make()
        with pytest.raises(TastemakerError, match="judge gave 1 rewards for 3"):
            TextReward(lambda prompts, responses: [1.0], decode, name="judge")(batch, records)
