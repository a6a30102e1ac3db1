"""Truncation, columns, masks and the receipt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data import read_records, tokenise
from tastemaker.data.encoding import Encoded
from tastemaker.data.problems import Unusable
from tastemaker.data.receipt import lengths
from tastemaker.data.truncation import Limits, fit
from tastemaker.models.tiny import tiny_model
from tastemaker.types import Comparison, Demonstration, Judgement, Message, Question, Record, TastemakerError

from .families import FAMILIES, GENERATION, TEXTS

WORDS = " ".join(TEXTS).split()


def words(n: int, start: int = 0) -> str:
    return " ".join(WORDS[(start + i) % len(WORDS)] for i in range(n))


def pair(prompt: int, chosen: int, rejected: int, **fields: Any) -> Comparison:
    responses = (" " + words(chosen, 3), " " + words(rejected, 7))
    return Comparison(prompt=words(prompt), responses=responses, **fields)


def encoded(n: int, start: int = 10, ended: bool = True, trained: list[bool] | None = None) -> Encoded:
    return Encoded(list(range(start, start + n)), trained or [True] * n, [False] * n, ended)


# ---------------------------------------------------------------------------------------- truncation

_sizes = st.integers(1, 14)


@settings(max_examples=200, deadline=None)
@given(
    prompt=_sizes,
    sizes=st.lists(_sizes, min_size=0, max_size=4),
    max_length=st.integers(2, 20),
    max_prompt=st.none() | st.integers(1, 19),
    mode=st.sampled_from(["keep_start", "keep_end", "drop"]),
)
def test_A6_truncation_never_leaves_an_empty_response(
    prompt: int, sizes: list[int], max_length: int, max_prompt: int | None, mode: Any
) -> None:
    if max_prompt is not None and max_prompt >= max_length:
        with pytest.raises(TastemakerError, match="so that a response has room"):
            Limits(max_length, max_prompt, mode)
        return
    limits = Limits(max_length, max_prompt, mode)
    ids = list(range(100, 100 + prompt))
    whole = [encoded(n, start=10 + 20 * k) for k, n in enumerate(sizes)]
    limit, total = max_prompt or max_length - 1, prompt + max(sizes, default=0)
    expected = None
    if mode == "drop" and total > max_length:
        expected = "longer than max_length"
    elif mode != "keep_end" and prompt > limit:
        expected = "prompt longer than the limit"
    if expected is not None:
        with pytest.raises(Unusable, match=f"^{expected}$"):
            fit(ids, 1, whole, [0] * len(whole), limits)
        return
    found = fit(ids, 1, whole, [0] * len(whole), limits)
    assert len(found.prompt) >= 1 and found.prompt[0] == 100
    assert len(found.prompt) <= (max_prompt or max_length - 1)
    assert found.prompt[1:] == ids[prompt - len(found.prompt) + 1 :]
    for before, after in zip(whole, found.responses, strict=True):
        assert 1 <= len(after.ids) <= max_length - len(found.prompt)
        assert after.ids == before.ids[: len(after.ids)]
        assert after.ended == (len(after.ids) == len(before.ids))
    assert found.cut_responses == sum(not r.ended for r in found.responses)
    assert found.cut_prompt == (len(found.prompt) < prompt)
    if mode == "drop":
        assert found.cut_responses == 0 and not found.cut_prompt


def test_A6_keep_end_makes_room_for_the_response_but_keeps_half_for_the_prompt() -> None:
    limits = Limits(10, None, "keep_end")
    found = fit([1, *range(100, 120)], 1, [encoded(3)], [0], limits)
    assert found.prompt == [1, 114, 115, 116, 117, 118, 119] and len(found.responses[0].ids) == 3
    found = fit([1, *range(100, 120)], 1, [encoded(30)], [0], limits)
    assert found.prompt == [1, 116, 117, 118, 119] and len(found.responses[0].ids) == 5


def test_A8_both_sides_are_cut_by_one_rule_and_equal_ones_dropped() -> None:
    chosen, rejected = encoded(9), Encoded([*range(10, 16), 90, 91], [True] * 8, [False] * 8, True)
    found = fit([1], 1, [chosen, rejected], [0, 1], Limits(8))
    assert [len(r.ids) for r in found.responses] == [7, 7]
    with pytest.raises(Unusable, match="identical once cut"):
        fit([1], 1, [chosen, rejected], [0, 1], Limits(7))
    assert fit([1], 1, [chosen, rejected], [0, 0], Limits(7)).cut_responses == 2


def test_a_cut_that_leaves_nothing_trained_drops_the_row() -> None:
    late = encoded(6, trained=[False] * 4 + [True] * 2)
    assert fit([1], 1, [late], [0], Limits(6)).responses[0].trained == [False] * 4 + [True]
    with pytest.raises(Unusable, match="no trained token is left"):
        fit([1], 1, [late], [0], Limits(5))


@pytest.mark.parametrize("family", FAMILIES)
def test_A6_rows_are_dropped_or_cut_and_counted(family: str) -> None:
    tokenizer = FAMILIES[family]()
    records = [pair(3, 3, 3, row="short"), pair(3, 60, 3, row="long answer"), pair(60, 3, 3, row="long prompt")]
    found = tokenise(records, tokenizer, max_length=60)
    assert [r.row for r in found.records] == ["short", "long answer"]
    assert [t.row for t in found.trees] == [0, 1]
    assert found.receipt.dropped["prompt longer than the limit"].rows == ("long prompt",)
    assert found.receipt.truncated_responses == found.receipt.lost_eos == 1
    assert found.trees[1].ended == (False, True)
    assert found.trees[1].responses[0][-1] != tokenizer.eos_token_id
    assert len(found.trees[1].prompt) + len(found.trees[1].responses[0]) == 60
    whole = tokenise(records, tokenizer, max_length=60, truncation_mode="drop")
    assert [r.row for r in whole.records] == ["short"]
    assert whole.receipt.dropped["longer than max_length"].count == 2
    left = tokenise(records, tokenizer, max_length=60, max_prompt_length=20, truncation_mode="keep_end")
    assert len(left) == 3 and len(left.trees[2].prompt) == 20 and left.receipt.truncated_prompts == 1
    full = tokenise(records, tokenizer, max_length=2000).trees[2].prompt
    kept = 1 if tokenizer.bos_token_id is not None else 0
    assert left.trees[2].prompt.tolist() == [*full[:kept].tolist(), *full[len(full) - 20 + kept :].tolist()]


def test_limits_are_checked() -> None:
    with pytest.raises(TastemakerError, match="max_length=1"):
        Limits(1)
    with pytest.raises(TastemakerError, match="Did you mean 'keep_start'"):
        Limits(8, None, "keepstart")
    with pytest.raises(TastemakerError, match=r"no row is left to train on \(1 rows: prompt longer"):
        tokenise([pair(50, 3, 3)], FAMILIES["byte_bpe"](), max_length=10)


# ------------------------------------------------------------------------------------------- columns


def test_columns_of_pairs() -> None:
    ranked = Comparison(prompt="p", responses=(" a", " b", " c"), ranking=(2, 0, 1))
    records = [pair(2, 2, 3, strength=1.5), ranked, pair(2, 3, 2)]
    found = tokenise(records, FAMILIES["byte_bpe"]())
    batch = found.batch([1, 0])
    assert batch.response_columns["rank"].tolist() == [2, 0, 1, 0, 1]
    assert batch.tree_columns["margin"].tolist() == [0.0, 1.5]
    better, worse = batch.pairs
    assert list(zip(better.tolist(), worse.tolist(), strict=True)) == [(1, 0), (1, 2), (2, 0), (3, 4)]
    assert batch.units() == {
        "tokens": sum(t.response_tokens for t in batch.trees),
        "responses": 5,
        "pairs": 4,
        "trees": 2,
    }
    assert found.kind is Comparison


def test_columns_of_other_kinds() -> None:
    tokenizer = FAMILIES["byte_bpe"]()
    judged = [
        Judgement(prompt="p", response=" a", desirable=True),
        Judgement(prompt="p", response=" a", desirable=False),
    ]
    assert tokenise(judged, tokenizer).batch([1, 0]).response_columns["desirable"].tolist() == [False, True]
    asked = tokenise([Question(prompt="p"), Question(prompt="q")], tokenizer).batch([0, 1])
    assert asked.group_sizes == (0, 0) and asked.lengths.tolist() == [] and asked.size == 4
    assert asked.response_columns["rank"].tolist() == []


def test_ties_teach_nothing_as_pairs() -> None:
    tie = Comparison(prompt="p", responses=(" a", " b"), ranking=(0, 0), row="tie")
    found = tokenise([tie, pair(2, 2, 3)], FAMILIES["byte_bpe"]())
    assert len(found) == 1 and found.receipt.dropped["all responses tied"].rows == ("tie",)
    assert found.trees[0].row == 1


_reply = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)
_turns = st.lists(st.tuples(_reply, _reply), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(family=st.sampled_from(sorted(FAMILIES)), turns=_turns, max_length=st.integers(8, 120))
def test_A10_the_mask_covers_exactly_what_the_assistant_says(
    family: str, turns: list[tuple[str, str]], max_length: int
) -> None:
    tokenizer = FAMILIES[family]()
    messages = [m for ask, say in turns for m in (Message("user", ask), Message("assistant", say))]
    response = tuple(messages[1:]) if len(messages) > 2 else messages[1].content
    record = Demonstration(prompt=(messages[0],), response=response)
    whole = tokenise([record], tokenizer, chat_template=GENERATION).trees[0]
    if len(whole.prompt) >= max_length:
        with pytest.raises(TastemakerError, match="prompt longer than the limit"):
            tokenise([record], tokenizer, max_length=max_length, chat_template=GENERATION)
        return
    found = tokenise([record], tokenizer, max_length=max_length, chat_template=GENERATION)
    batch = found.batch([0])
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    spoken = batch.targets[batch.trained]
    ends = int((spoken == end).sum())
    if bool(batch.ended[0]):
        assert ends == len(turns)
        told = tokenizer.decode(spoken, clean_up_tokenization_spaces=False).replace(" ", "")
        assert told == "".join(say + "<|end|>" for _, say in turns).replace(" ", "")
    else:
        assert batch.size == max_length and ends < len(turns)
    header = tokenizer.convert_tokens_to_ids(["<|user|>", "<|assistant|>"])
    assert not set(spoken.tolist()) & set(header)
    assert batch.units()["tokens"] == int(batch.trained.sum()) > 0


def test_C1_batches_are_the_same_trees_however_they_are_cut() -> None:
    found = tokenise([pair(i + 1, i + 2, 9 - i) for i in range(8)], FAMILIES["byte_bpe"]())
    whole = found.batch(range(8))
    parts = list(whole.cut(60))
    assert len(parts) > 1
    assert torch.cat([p.targets for p in parts]).tolist() == whole.targets.tolist()
    assert (
        torch.cat([p.response_columns["rank"] for p in parts]).tolist()
        == whole.response_columns["rank"].tolist()
    )
    total = {unit: sum(p.units()[unit] for p in parts) for unit in whole.units()}
    assert total == whole.units()


def test_batches_of_rows_encoded_together_are_the_rows_encoded_alone() -> None:
    for family in FAMILIES:
        tokenizer = FAMILIES[family]()
        records: list[Record] = [pair(i % 7 + 1, i % 5 + 1, i % 3 + 6) for i in range(600)]
        together = tokenise(records, tokenizer)
        for i in (0, 255, 256, 599):
            (alone,) = tokenise([records[i]], tokenizer).trees
            assert together.trees[i].row == i
            assert torch.equal(together.trees[i].prompt, alone.prompt)
            assert all(
                torch.equal(a, b) for a, b in zip(together.trees[i].responses, alone.responses, strict=True)
            )


# ------------------------------------------------------------------------------------------- receipt


def test_lengths_by_hand() -> None:
    found = lengths(range(1, 21))
    assert (found.mean, found.p95, found.max) == (10.5, 19, 20)
    assert lengths(range(1, 8)).p95 == 7
    assert lengths([7]).p95 == 7 and lengths([]).max == 0


def test_the_receipt_accounts_for_every_row(tmp_path: Path) -> None:
    rows = [
        *({"prompt": words(3), "chosen": f" {i} " + words(9), "rejected": " no"} for i in range(30)),
        *({"prompt": words(3), "chosen": f" {i}", "rejected": " " + words(8)} for i in range(10)),
        {"prompt": "p", "chosen": "", "rejected": "b", "id": "empty"},
        {"prompt": words(90), "chosen": "a", "rejected": "b", "id": "long"},
        {"prompt": "p <s> q", "chosen": "a</s>", "rejected": "b"},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n{broken\n")
    tokenizer = FAMILIES["byte_bpe"]()
    receipt = tokenise(read_records(path, max_bad=0.1), tokenizer, max_length=100).receipt
    assert receipt.rows == 44 and receipt.used == 41 and receipt.skipped == 1
    assert receipt.used + receipt.skipped + sum(d.count for d in receipt.dropped.values()) == receipt.rows
    assert receipt.dropped["empty response"].rows == ("empty",)
    assert receipt.longer_chosen == pytest.approx(30 / 40)
    assert (receipt.control_rows, dict(receipt.control_tokens), receipt.doubled_eos) == (1, {"<s>": 1}, 1)
    again = tokenise(read_records(path, max_bad=0.1), tokenizer, max_length=100).receipt
    assert json.dumps(receipt.to_json()) == json.dumps(again.to_json())
    told = receipt.summary()
    for part in ("44 rows read, 41 used", "1 dropped: empty response (rows empty)", "75% of pairs", "<s>"):
        assert part in told
    assert len(told.splitlines()) < 12
    trees = tokenise(read_records(path, max_bad=0.1), tokenizer, max_length=100).trees
    assert receipt.tokens["chosen"].max == max(len(t.responses[0]) for t in trees)
    assert receipt.tokens["prompt"].mean == pytest.approx(sum(len(t.prompt) for t in trees) / len(trees))


def test_only_twenty_rows_are_named_and_all_are_counted() -> None:
    records = [pair(90, 2, 3, row=str(i)) for i in range(30)]
    found = tokenise([*records, pair(2, 2, 3)], FAMILIES["byte_bpe"](), max_length=50).receipt
    dropped = found.dropped["prompt longer than the limit"]
    assert dropped.count == 30 and dropped.rows == tuple(map(str, range(20)))


def test_hashes_change_with_what_they_stand_for() -> None:
    record = pair(3, 3, 4)
    byte = tokenise([record], FAMILIES["byte_bpe"]())
    other = tokenise([record], FAMILIES["no_bos"]())
    assert byte.receipt.tokenizer_sha256 != other.receipt.tokenizer_sha256
    assert byte.receipt.data_sha256 == other.receipt.data_sha256
    assert byte.sha256 == tokenise([record], FAMILIES["byte_bpe"]()).sha256
    assert byte.sha256 != tokenise([record], FAMILIES["byte_bpe"](), max_length=12).sha256


def test_real_hh_records_tokenise_whole(shared_data: Path) -> None:
    dataset = read_records(shared_data / "hh_rlhf_harmless.jsonl.gz")
    texts = [r.responses[0] for r in dataset.records[:200] if isinstance(r, Comparison)]
    _, tokenizer = tiny_model([str(t) for t in texts], seed=0, hidden=16, vocab_size=1024)
    found = tokenise(dataset, tokenizer, max_length=4096)
    receipt = found.receipt
    assert len(found) == 1794 and receipt.rows == 1800
    assert receipt.prompts_not_shared == 4 and receipt.dropped["empty response"].count == 2
    assert receipt.truncated_responses == receipt.lost_eos == receipt.doubled_bos == receipt.control_rows == 0
    assert receipt.longer_chosen is not None and 0.40 < receipt.longer_chosen < 0.48
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    for tree in found.trees:
        assert tree.prompt[0] == bos and int((tree.prompt == bos).sum()) == 1
        assert all(r[-1] == eos and int((r == eos).sum()) == 1 for r in tree.responses)
    record = dataset.records[5]
    assert isinstance(record, Comparison)
    assert tokenizer.decode(found.trees[5].responses[0], skip_special_tokens=True) == record.responses[0]
