"""What every engine promises; here the one in this process, in its two ways of decoding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy import stats

from tastemaker.rollout import pool
from tastemaker.rollout.local import LocalGenerator
from tastemaker.types import Bundles, Sampling, TastemakerError, Tree

LENGTHS = [4, 7, 2, 7, 5, 1]
EOS = 2


def responses(batch: Bundles) -> list[list[int]]:
    return [r.tolist() for tree in batch.trees for r in tree.responses]


@pytest.mark.parametrize("own_attention", [False, True], ids=["stream", "rows"])
class TestEngineContract:
    @pytest.fixture(autouse=True)
    def _engine(self, own_attention, build, wrap, prompts, teacher_forced):
        self.model = build("Llama", own_attention=own_attention)
        self.models = wrap(self.model)
        self.engine = LocalGenerator(self.models)
        self.prompts = prompts(LENGTHS)
        self.score = teacher_forced

    def generate(self, prompts: Bundles | None = None, *, seed: int = 1, **settings: object) -> Bundles:
        sampling = Sampling(**{"max_new_tokens": 10, "n": 2, **settings})
        return self.engine.generate(self.prompts if prompts is None else prompts, sampling, seed=seed)

    def test_order_rows_and_columns(self):
        asked = self.prompts.with_trees(margin=torch.arange(6.0))
        out = self.generate(asked, n=3)
        assert out.group_sizes == (3,) * 6
        assert torch.equal(out.tree_columns["margin"], torch.arange(6.0))
        for before, after in zip(asked.trees, out.trees, strict=True):
            assert after.prompt is before.prompt
            assert after.row == before.row
            assert len(after.ended) == 3
            assert all(r.dtype == torch.int64 for r in after.responses)
            assert len({tuple(r.tolist()) for r in after.responses}) > 1  # samples of one prompt differ
        assert out.token_columns["sampled_logps"].shape == (int(out.lengths.sum()),)

    def test_A1_no_token_is_added_to_the_prompt(self):
        bos = Bundles((Tree(torch.tensor([1, 8, 9]), row=0), Tree(torch.tensor([8, 9]), row=1)))
        out = self.generate(bos)
        # the ids given are all the model saw: only then do these agree
        torch.testing.assert_close(
            out.token_columns["sampled_logps"], self.score(self.model, out), atol=1e-4, rtol=0
        )

    @pytest.mark.parametrize("temperature", [0.6, 1.7])
    def test_B4_sampled_logps_are_at_the_temperature(self, temperature):
        out = self.generate(temperature=temperature)
        expected = self.score(self.model, out, temperature)
        torch.testing.assert_close(out.token_columns["sampled_logps"], expected, atol=1e-4, rtol=0)
        assert (expected - self.score(self.model, out)).abs().max() > 0.1

    def test_D2_the_end_token_belongs_to_the_response(self):
        asked = Bundles(
            tuple(replace(t, prompt=torch.cat([torch.tensor([EOS]), t.prompt])) for t in self.prompts.trees)
        )
        out = self.generate(asked, n=4)  # an end token in the prompt ends nothing
        ended = out.ended.tolist()
        assert True in ended
        assert False in ended
        for response, over in zip(responses(out), ended, strict=True):
            assert (response[-1] == EOS) is over
            assert EOS not in response[:-1]
            assert over or len(response) == 10

    def test_max_new_tokens_cuts(self):
        long, short = self.generate(max_new_tokens=10), self.generate(max_new_tokens=3)
        for before, after, ended in zip(responses(long), responses(short), short.ended.tolist(), strict=True):
            assert after == before[:3]
            assert ended is (EOS in after)
        assert self.generate(max_new_tokens=1).lengths.tolist() == [1] * 12

    def test_same_seed_same_samples(self):
        assert responses(self.generate(seed=4)) == responses(self.generate(seed=4))
        assert responses(self.generate(seed=4)) != responses(self.generate(seed=5))

    def test_samples_do_not_depend_on_the_batch(self):
        whole = self.generate(n=3)
        for part in ([0], [5, 2], [4, 3, 1, 0, 5, 2]):
            alone = self.generate(self.prompts.take(part), n=3)
            assert responses(alone) == responses(whole.take(part))
            torch.testing.assert_close(
                alone.token_columns["sampled_logps"], whole.take(part).token_columns["sampled_logps"]
            )
        fewer = self.generate(n=1)
        assert responses(fewer) == responses(whole)[::3]

    def test_several_passes_give_the_same_samples(self):
        whole = responses(self.generate(n=3))
        for budget in (1, 30_000):
            self.engine = LocalGenerator(self.models, cache_bytes=budget)
            assert responses(self.generate(n=3)) == whole

    def test_equal_prompts_of_different_rows_draw_differently(self):
        prompt = torch.tensor([5, 6])
        out = self.generate(Bundles(tuple(Tree(prompt, row=i) for i in range(4))), n=1)
        assert len({tuple(r) for r in responses(out)}) > 1

    def test_frequencies_are_the_models_probabilities(self):
        prompt = torch.tensor([5, 6])
        out = self.generate(Bundles((Tree(prompt, row=0),)), n=2000, max_new_tokens=2, temperature=2.0)
        first = torch.tensor([r[0] for r in responses(out)])
        self.model.set_attn_implementation("eager")
        with torch.no_grad():
            p = (self.model(input_ids=prompt[None]).logits[0, -1] / 2).double().softmax(0)
        likely = p > 5 / 2000
        counts = torch.bincount(first, minlength=len(p))[likely].double()
        expected = p[likely] / p[likely].sum() * counts.sum()
        assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 0.01
        # and of the second token given the likeliest first one
        top = int(p.argmax())
        second = torch.tensor([r[1] for r in responses(out) if r[0] == top])
        with torch.no_grad():
            q = (self.model(input_ids=torch.tensor([[5, 6, top]])).logits[0, -1] / 2).double().softmax(0)
        likely = q > 5 / len(second)
        counts = torch.bincount(second, minlength=len(q))[likely].double()
        expected = q[likely] / q[likely].sum() * counts.sum()
        assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 0.01

    def test_D15_truncation_needs_permission(self):
        with pytest.raises(TastemakerError, match="top_p=0\\.5"):
            self.generate(top_p=0.5)
        self.engine = LocalGenerator(self.models, allow_truncation=True)
        out = self.generate(top_k=1)
        greedy = self.generate(temperature=0.0)
        assert responses(out) == responses(greedy)
        torch.testing.assert_close(
            out.token_columns["sampled_logps"], self.score(self.model, out), atol=1e-4, rtol=0
        )

    def test_D16_the_weights_of_the_moment_are_used(self):
        before = self.generate()
        with torch.no_grad():
            self.model.get_output_embeddings().weight.neg_()
        after = self.generate()
        assert responses(after) != responses(before)
        torch.testing.assert_close(
            after.token_columns["sampled_logps"], self.score(self.model, after), atol=1e-4, rtol=0
        )

    def test_modes_are_restored_and_results_can_be_trained_on(self):
        self.model.train()
        self.model.model.layers[1].eval()
        before = [m.training for m in self.model.modules()]
        out = self.generate()
        assert [m.training for m in self.model.modules()] == before
        assert not out.token_columns["sampled_logps"].is_inference()
        assert not out.token_columns["sampled_logps"].requires_grad
        embedded = self.model.get_input_embeddings()(out.trees[0].responses[0])
        embedded.sum().backward()  # ids made in inference mode could not be saved for this
        assert torch.is_grad_enabled()

    def test_the_role_is_entered_and_left_even_on_errors(self):
        self.engine = LocalGenerator(self.models, role="reference")
        self.generate()
        assert self.models.roles == ["reference"]
        self.model.train()
        with torch.no_grad():
            self.model.get_output_embeddings().weight.fill_(float("nan"))
        with pytest.raises(TastemakerError, match=r"not finite while completing row 5 \(sample 0\)"):
            self.generate()
        assert not self.models.open
        assert self.model.training

    def test_bad_prompts(self):
        with pytest.raises(TastemakerError, match=r"several prompts have no `row`"):
            self.generate(Bundles((Tree(torch.tensor([4])), Tree(torch.tensor([4])))))
        with pytest.raises(ValueError, match="trees without responses"):
            self.generate(Bundles((Tree(torch.tensor([4]), (torch.tensor([5]),)),)))
        with pytest.raises(TastemakerError, match="n=0"):
            self.generate(n=0)
        assert self.generate(Bundles(())).token_columns["sampled_logps"].shape == (0,)


def test_every_end_token_ends(build, wrap, prompts):
    class Tokenizer:
        eos_token_id = 7

    model = build("Llama")
    model.generation_config.eos_token_id = [2, 9]
    out = LocalGenerator(wrap(model), Tokenizer()).generate(
        prompts(LENGTHS), Sampling(max_new_tokens=30, n=8, temperature=3.0), seed=0
    )
    last = {r[-1] for r, over in zip(responses(out), out.ended.tolist(), strict=True) if over}
    assert last == {2, 7, 9}
    assert not any({2, 7, 9} & set(r[:-1]) for r in responses(out))


def test_rows_are_dropped_when_they_finish(build, wrap, prompts, monkeypatch):
    model = build("Llama")
    sizes: list[int] = []
    model.register_forward_pre_hook(
        lambda _, __, options: sizes.append(options["input_ids"].shape[0]), with_kwargs=True
    )
    sampling = Sampling(max_new_tokens=50, n=4, temperature=3.0)
    dropped = LocalGenerator(wrap(model)).generate(prompts(LENGTHS), sampling, seed=0)
    assert sizes[1] == 24
    assert sizes[-1] < 12
    monkeypatch.setattr(pool, "SHRINK_AT", 0.0)
    kept = LocalGenerator(wrap(model)).generate(prompts(LENGTHS), sampling, seed=0)
    assert sizes[-1] == 24
    assert responses(kept) == responses(dropped)
    torch.testing.assert_close(kept.token_columns["sampled_logps"], dropped.token_columns["sampled_logps"])


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_no_gradient_is_kept_while_the_models_own_code_decodes(build, wrap, prompts, family: str):
    model = build(family)
    kept: list[bool] = []
    model.register_forward_hook(lambda *called: kept.append(called[-1].logits.requires_grad))
    with torch.enable_grad():
        LocalGenerator(wrap(model)).generate(prompts(LENGTHS), Sampling(max_new_tokens=3, n=2), seed=0)
    assert len(kept) >= 3
    assert not any(kept)


def test_prompts_are_computed_once(build, wrap, prompts):
    model = build("Llama")
    tokens: list[int] = []
    model.register_forward_pre_hook(
        lambda _, __, options: tokens.append(options["input_ids"].numel()), with_kwargs=True
    )
    LocalGenerator(wrap(model)).generate(prompts(LENGTHS), Sampling(max_new_tokens=1, n=50), seed=0)
    assert tokens == [sum(LENGTHS)]
