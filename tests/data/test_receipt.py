"""What tokenising did: counts and their rows, limits, agreement with a reward model, examples by token."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tastemaker.data import (
    audit_texts,
    broken_limits,
    enforce,
    example,
    find_row,
    read_records,
    shares,
    tokenise,
    visible,
)
from tastemaker.data.agreement import agreement
from tastemaker.types import Comparison, Demonstration, Judgement, Message, Question, TastemakerError

from .families import CHATML, FAMILIES, LLAMA3

OPEN = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}assistant: "


def pair(prompt: str, chosen: str, rejected: str, row: str = "") -> Comparison:
    return Comparison(prompt=prompt, responses=(chosen, rejected), row=row)


def chat(question: str, answer: str, row: str = "") -> Demonstration:
    return Demonstration(prompt=(Message("user", question),), response=answer, row=row)


# ------------------------------------------------------------------------------------------- counts


def test_cuts_and_lost_ends_by_row() -> None:
    tokenizer = FAMILIES["byte_bpe"]()
    long = "the dog walks over the capital " * 6
    records = [
        pair("a", " b", " c", "fits"),
        pair("a", long, " c", "cut"),
        pair("a", long, long + "x", "twice"),
    ]
    receipt = tokenise(records, tokenizer, max_length=30, truncation_mode="keep_end").receipt
    assert receipt.findings["truncated_responses"].rows == receipt.findings["lost_eos"].rows == ("cut",)
    # Of the third row nothing is left to tell the sides apart.
    assert receipt.dropped["responses identical once cut"].rows == ("twice",)
    assert (receipt.truncated_responses, receipt.lost_eos, receipt.responses) == (1, 1, 4)
    cut = tokenise([pair(long, " b", " c", "p")], tokenizer, max_length=30, truncation_mode="keep_end").receipt
    assert cut.findings["truncated_prompts"].rows == cut.findings["truncated"].rows == ("p",)


def test_a_template_that_never_ends_a_turn() -> None:
    tokenizer = FAMILIES["byte_bpe"]()
    records = [chat("Hi", "Hello", "0"), chat("Ho", "Hello", "1")]
    receipt = tokenise(records, tokenizer, chat_template=OPEN.replace("assistant: ", "")).receipt
    assert (receipt.added_eos, receipt.lost_eos) == (2, 0)
    assert receipt.findings["added_eos"].rows == ("0", "1")
    assert "does not end 2 responses: </s> is added" in receipt.summary()
    closed = tokenise(records, tokenizer, chat_template=CHATML).receipt
    assert closed.added_eos == 0 and closed.end_token == "<|im_end|>"
    assert tokenise([pair("a", " b", " c")], tokenizer).receipt.added_eos == 0


def test_without_any_end_token_every_end_is_lost() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=FAMILIES["no_bos"]().backend_tokenizer)
    receipt = tokenise([pair("a", " b", " c")], tokenizer).receipt
    assert (receipt.end_token, receipt.lost_eos, receipt.added_eos) == ("", 2, 0)
    assert "cannot learn where to stop" in receipt.summary()
    assert broken_limits(receipt, {"max_lost_eos": 0.5}) and not broken_limits(receipt, {"max_lost_eos": 1.0})


def test_doubled_tokens_and_control_text_by_row() -> None:
    tokenizer = FAMILIES["byte_bpe"]()
    records = [
        pair("a", " b", " c", "clean"),
        pair("<s>a", " b</s>", " c</s></s>", "formatted"),
        pair("a", " say <|im_end|> and <|im_end|>", " c", "injected"),
    ]
    receipt = tokenise(records, tokenizer).receipt
    assert (receipt.doubled_bos, receipt.doubled_eos) == (1, 3)
    assert receipt.findings["doubled_bos"].rows == receipt.findings["doubled_eos"].rows == ("formatted",)
    assert receipt.findings["control_tokens"].rows == ("injected",)
    assert dict(receipt.control_tokens) == {"<|im_end|>": 2}
    assert receipt.audit.control.rows == ("formatted", "injected")


def test_text_the_tokenizer_does_not_know() -> None:
    records = [pair("a", " b", " c", "known"), pair("a", " 日本", " c", "unknown")]
    receipt = tokenise(records, FAMILIES["metaspace"]()).receipt
    assert receipt.findings["unknown_tokens"].rows == ("unknown",) and receipt.unknown_tokens >= 1
    assert tokenise(records, FAMILIES["byte_bpe"]()).receipt.unknown_tokens == 0


def test_trained_share_and_percentiles_are_those_of_the_trees() -> None:
    turns = (Message("assistant", "one two"), Message("user", "more"), Message("assistant", "three"))
    records = [
        Demonstration(prompt=(Message("user", "Hi"),), response=turns),
        *(chat("Hi " * n, "fine") for n in range(1, 9)),
    ]
    found = tokenise(records, FAMILIES["byte_bpe"](), chat_template=CHATML)
    receipt = found.receipt
    assert receipt.all_tokens == sum(tree.size for tree in found.trees)
    assert receipt.response_tokens == sum(tree.response_tokens for tree in found.trees)
    assert receipt.trained_tokens == int(found.batch(range(len(found))).trained.sum()) < receipt.response_tokens
    prompts = sorted(len(tree.prompt) for tree in found.trees)
    assert (receipt.tokens["prompt"].p50, receipt.tokens["prompt"].p95) == (prompts[4], prompts[8])


def test_length_bias_is_in_tokens_after_the_cut() -> None:
    tokenizer = FAMILIES["byte_bpe"]()
    records = [pair("a", " the dog" * 40, " no"), pair("a", " no", " the dog walks"), pair("a", "x", "y")]
    found = tokenise(records, tokenizer, max_length=20)
    bias = found.receipt.length_bias
    sizes = [[len(r) for r in tree.responses] for tree in found.trees]
    assert bias is not None and max(map(max, sizes)) < 20
    assert (bias.longer, bias.shorter, bias.equal) == (1, 1, 1)
    assert bias.mean_difference == pytest.approx(sum(c - r for c, r in sizes) / 3)
    assert found.receipt.audit.length_bias is not None
    assert found.receipt.audit.length_bias.mean_difference != bias.mean_difference


def test_prompts_alone_have_no_responses_to_count() -> None:
    receipt = tokenise([Question(prompt="a"), Question(prompt="b")], FAMILIES["byte_bpe"]()).receipt
    assert (receipt.responses, receipt.trained_tokens, receipt.length_bias) == (0, 0, None)
    assert "trained" not in receipt.summary()


def test_the_receipt_is_json_and_carries_its_summary() -> None:
    receipt = tokenise(
        [pair("a", " b", " c")], FAMILIES["byte_bpe"](), held_out=read_records([pair("a", "x", "y")])
    )
    read = json.loads(json.dumps(receipt.receipt.to_json(), allow_nan=False))
    assert read["summary"] == receipt.receipt.summary()
    assert read["audit"]["leakage"]["prompts"] == {"count": 1, "rows": [["0", "0"]]}
    assert "1 of 1 records of records have a prompt that is among these rows" in read["summary"]


def test_a_reason_for_every_row_does_not_flood_the_summary() -> None:
    refuse = (
        "{{ raise_exception('I refuse ' + messages[0]['content']) if messages[0]['content'] != 'ok' }}" + CHATML
    )
    records = [chat(f"number {i}", "fine", str(i)) for i in range(30)]
    receipt = tokenise([*records, chat("ok", "fine")], FAMILIES["byte_bpe"](), chat_template=refuse).receipt
    assert len(receipt.dropped) == 30
    assert "22 dropped for 22 more reasons" in receipt.summary()
    assert len(receipt.summary().splitlines()) < 15


# ------------------------------------------------------------------------------------------- limits

ROWS = [
    *({"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(6)),
    {"prompt": "p0", "chosen": "a", "rejected": "b"},
    {"prompt": "p1", "chosen": "b", "rejected": "a"},
    {"prompt": "p7", "chosen": "a " * 60, "rejected": "b"},
    {"prompt": "p8", "chosen": "", "rejected": "b"},
]


def test_each_limit_is_its_share() -> None:
    held_out = read_records([{"prompt": p, "chosen": "x", "rejected": "y"} for p in ("p0", "p2", "q", "r")])
    data = read_records(ROWS)
    receipt = tokenise(data, FAMILIES["byte_bpe"](), max_length=40, held_out=held_out).receipt
    expected = {
        "max_dropped": (1, 10),
        "max_truncated": (1, 9),
        "max_lost_eos": (1, 18),
        "max_duplicates": (1, 9),
        "max_contradictory": (1, 9),
        "max_leaked": (2, 4),
    }
    assert {name: (s.count, s.of) for name, s in shares(receipt).items()} == expected
    for name, (count, of) in expected.items():
        assert broken_limits(receipt, {name: count / of}) == []
        (told,) = broken_limits(receipt, {name: count / of - 0.01})
        assert f"{count} of {of}" in told and name in told and name.replace("_", "-") in told
    texts = audit_texts(data, held_out)
    assert {n: (s.count, s.of) for n, s in shares(texts).items()} == {
        n: c for n, c in expected.items() if n not in ("max_truncated", "max_lost_eos")
    }


def test_all_broken_limits_are_told_at_once() -> None:
    receipt = tokenise(read_records(ROWS), FAMILIES["byte_bpe"](), max_length=40).receipt
    enforce(receipt, {"max_dropped": 0.1, "max_lost_eos": 1.0, "seed": 3})
    with pytest.raises(TastemakerError) as caught:
        enforce(receipt, {"max_dropped": 0.05, "max_duplicates": 0, "max_contradictory": 0.0})
    message = str(caught.value)
    assert len(message.splitlines()) == 3 and all(
        line.startswith("rows: 1 of ") for line in message.splitlines()
    )
    assert "1 rows: empty response" in message and "6 as 0" in message and "7 and 1" in message


# ---------------------------------------------------------------------------------------- agreement


def other(template: str) -> PreTrainedTokenizerFast:
    tokenizer = FAMILIES["byte_bpe"]()
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = template
    return made


def test_same_template_same_tokens() -> None:
    records = [chat(f"Hi {i}", "Hello", str(i)) for i in range(100)]
    found = agreement(records, other(CHATML), other(CHATML))
    assert found.agree and found.same_template and (found.compared, found.different.count) == (64, 0)
    assert "the same tokens of 64 compared records" in found.to_line()
    spelt_otherwise = agreement(records, other(CHATML), other(CHATML + "{# a remark #}"))
    assert spelt_otherwise.agree and not spelt_otherwise.same_template


def test_other_template_other_tokens() -> None:
    found = agreement([chat("Hi", "Hello", "r7")], other(CHATML), other(LLAMA3))
    assert not found.agree and found.same_vocabulary and not found.same_template
    assert found.different.rows == ("r7",) and "row r7: prompt, token 2: '<|im_start|>'" in found.first
    # The policy's template may be given rather than its own.
    assert agreement([chat("Hi", "Hello")], other(LLAMA3), other(CHATML), CHATML).agree
    # Templates do not matter where nothing is a conversation.
    assert agreement([pair("a", " b", " c")], other(CHATML), other(LLAMA3)).same_template


def test_prompts_alone_are_compared_with_an_answer() -> None:
    ends_otherwise = CHATML.replace(
        "'<|im_end|>'", "('</s>' if message['role'] == 'assistant' else '<|im_end|>')"
    )
    asked = [Question(prompt=(Message("user", "Hi"),))]
    found = agreement(asked, other(CHATML), other(ends_otherwise))
    assert not found.agree and "response 1" in found.first


def test_another_vocabulary() -> None:
    found = agreement([pair("a", " b", " c")], FAMILIES["byte_bpe"](), FAMILIES["metaspace"]())
    assert "their vocabularies differ" in found.to_line()
    receipt = tokenise(
        [pair("a", " b", " c")], FAMILIES["byte_bpe"](), reward_tokenizer=FAMILIES["no_bos"]()
    ).receipt
    assert receipt.agreement is not None and "do not agree" in receipt.summary()


# ----------------------------------------------------------------------------------------- examples

_TEXT = st.text(
    st.sampled_from("ab dog.é日🙂\n\t<s>") | st.characters(min_codepoint=32, max_codepoint=0x2FFF), max_size=30
)


@settings(max_examples=80, deadline=None)
@given(family=st.sampled_from(["byte_bpe", "no_bos"]), prompt=_TEXT, chosen=_TEXT, rejected=_TEXT)
def test_pieces_are_all_tokens_and_all_text(family: str, prompt: str, chosen: str, rejected: str) -> None:
    tokenizer = FAMILIES[family]()
    record = Comparison(prompt=(Message("user", prompt),), responses=(chosen + "x", rejected + "y"))
    found = tokenise([record], tokenizer, chat_template=CHATML)
    shown = example(found, tokenizer)
    tree = found.trees[0]
    parts = [
        (shown.prompt, tree.prompt),
        *((r.pieces, ids) for r, ids in zip(shown.responses, tree.responses, strict=True)),
    ]
    for pieces, ids in parts:
        assert [i for p in pieces for i in p.ids] == ids.tolist()
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert "".join(p.text for p in pieces) == text
        assert all("\ufffd" not in p.text for p in pieces) or "\ufffd" in prompt + chosen + rejected
    assert [r.label for r in shown.responses] == ["chosen", "rejected"]
    ends = [r.pieces[-1] for r in shown.responses]
    assert all(p.text == "<|im_end|>" and p.special and p.trained for p in ends)
    spelt = "".join(p.text for p in shown.prompt if not p.special)
    assert spelt == f"user\n{prompt}\nassistant\n"


def test_metaspace_keeps_its_spaces() -> None:
    tokenizer = FAMILIES["metaspace"]()
    found = tokenise([pair("How do I", " walk a dog?", " it is")], tokenizer)
    shown = example(found, tokenizer)
    assert "".join(p.text for p in shown.responses[0].pieces) == " walk a dog?</s>"
    whole = tokenizer.decode(found.trees[0].prompt, clean_up_tokenization_spaces=False)
    assert "".join(p.text for p in shown.prompt) == whole and whole.endswith("How do I")


def test_what_is_not_trained_is_told_apart() -> None:
    turns = (Message("assistant", "one"), Message("user", "more"), Message("assistant", "two"))
    record = Demonstration(prompt=(Message("user", "Hi"),), response=turns)
    found = tokenise([record], FAMILIES["byte_bpe"](), chat_template=CHATML)
    (response,) = example(found, FAMILIES["byte_bpe"]()).responses
    assert (
        "".join(p.text for p in response.pieces if p.trained) == "one<|im_end|>two<|im_end|>"
        and response.label == "response"
    )
    assert response.trained == found.receipt.trained_tokens < response.size


def test_labels_of_other_kinds() -> None:
    tokenizer = FAMILIES["byte_bpe"]()
    ranked = Comparison(prompt="p", responses=(" a", " b", " c"), ranking=(2, 0, 1))
    assert [r.label for r in example(tokenise([ranked], tokenizer), tokenizer).responses] == [
        "rank 2",
        "rank 0",
        "rank 1",
    ]
    judged = Judgement(prompt="p", response=" a", desirable=False)
    assert example(tokenise([judged], tokenizer), tokenizer).responses[0].label == "undesirable"
    assert example(tokenise([Question(prompt="p")], tokenizer), tokenizer).responses == ()
    cut = tokenise([pair("p", " dog" * 50, " b")], tokenizer, max_length=9)
    assert [r.ended for r in example(cut, tokenizer).responses] == [False, True]


def test_words_that_are_tokens_keep_the_spaces_of_their_decoder() -> None:
    vocabulary = {w: i for i, w in enumerate(["<eos>", "where", "is", "it"])}
    made = Tokenizer(models.WordLevel(vocabulary))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>")
    shown = example(tokenise([pair("where is", "it", "is")], tokenizer), tokenizer)
    assert [p.ids for p in shown.prompt] == [(1,), (2,)]
    assert [p.ids for p in shown.responses[0].pieces] == [(3,), (0,)]


def test_rows_are_found_by_id_or_line(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": "", "rejected": "b", "id": "lost"},
        {"prompt": "p", "chosen": "a", "rejected": "b", "id": "first"},
        {"prompt": "p", "chosen": "c", "rejected": "b", "id": "2"},
        {"prompt": "p", "chosen": "d", "rejected": "b", "id": "last"},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    data = read_records(path)
    found = tokenise(data, FAMILIES["byte_bpe"]())
    assert [find_row(found, data, row) for row in ("first", "2", "4", "last", "3")] == [0, 1, 2, 2, 1]
    with pytest.raises(TastemakerError, match="row lost is not used: empty response"):
        find_row(found, data, "lost")
    with pytest.raises(TastemakerError, match="Did you mean 'first'"):
        find_row(found, data, "frist")
    with pytest.raises(TastemakerError, match="no row '99'"):
        find_row(found, data, "99")


# ------------------------------------------------------------------------------------ other people's text


@given(st.text(st.characters(), max_size=40))
def test_what_is_visible_prints(text: str) -> None:
    shown, plain = visible(text), visible(text, ascii_only=True)
    assert shown.isprintable() and plain.isprintable() and plain.isascii()
    if text.isprintable():
        assert shown == text


def test_escapes_are_spelt() -> None:
    assert visible("a\x1b[31mb\r\n\u202e\x9b\u2028") == "a\\x1b[31mb\\r\\n\\u202e\\x9b\\u2028"
    assert visible("é 日 🙂") == "é 日 🙂" and visible("é", ascii_only=True) == "\\xe9"


def test_a_summary_holds_no_control_character() -> None:
    bad = "\x1b[2J\x9b\u202e"
    records = [
        pair("a", " b", " c", f"row{bad}"),
        pair("a", " b", " c", f"again{bad}"),
        pair("a", " c", " b", f"against{bad}"),
        pair("a", " b" * 99, " c", f"cut{bad}"),
        pair(f"{bad} <s>", " b", " c", "control"),
    ]
    data = replace(read_records(records), source=f"file{bad}")
    receipt = tokenise(data, FAMILIES["byte_bpe"](), max_length=40, held_out=data).receipt
    for text in (
        receipt.summary(),
        receipt.audit.summary(),
        *broken_limits(receipt, dict.fromkeys(shares(receipt), -1)),
    ):
        assert all(line.isprintable() for line in text.split("\n")), text
    refused: Any = replace(data, records=(*data.records, chat(bad, "x", "chat")))
    template = "{{ raise_exception(messages[0]['content']) }}"
    assert (
        tokenise(refused, FAMILIES["byte_bpe"](), chat_template=template)
        .receipt.summary()
        .replace("\n", "")
        .isprintable()
    )
