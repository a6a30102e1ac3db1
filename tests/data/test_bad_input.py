"""Bad input: every bad row in one message, with file, line, field and reason."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data import read_records, write_records
from tastemaker.types import (
    Comparison,
    Demonstration,
    Judgement,
    Message,
    Question,
    StepLabels,
    TastemakerError,
)

GOOD = '{"prompt": "p", "chosen": "a", "rejected": "b"}'


def refused(path: Path, **arguments: Any) -> str:
    with pytest.raises(TastemakerError) as caught:
        read_records(path, **arguments)
    return str(caught.value)


def write(path: Path, *content: str | bytes) -> Path:
    path.write_bytes(b"\n".join(c.encode() if isinstance(c, str) else c for c in content) + b"\n")
    return path


LINES = {
    "cut off": ('{"prompt": "p", "chosen": ', ["broken JSON"]),
    "not JSON at all": ("prompt;chosen;rejected", ["broken JSON"]),
    "NaN": ('{"prompt": "p", "chosen": "a", "rejected": "b", "margin": NaN}', ["NaN is not JSON"]),
    "infinity": (
        '{"prompt": "p", "chosen": "a", "rejected": "b", "margin": 1e999}',
        ["margin: should be a finite"],
    ),
    "a list": ('["p", "a", "b"]', ["not an object", ".json"]),
    "a number": ("7", ["not an object but 7"]),
    "missing column": ('{"prompt": "p", "choosen": "a", "rejected": "b"}', ["chosen: is missing", "'choosen'"]),
    "null column": ('{"prompt": "p", "chosen": null, "rejected": "b"}', ["chosen: is missing"]),
    "misspelt prompt": ('{"promt": "p", "chosen": "a", "rejected": "b"}', ["prompt: is missing", "'promt'"]),
    "wrong type": ('{"prompt": "p", "chosen": 3, "rejected": "b"}', ["chosen: should be text", "is 3"]),
    "wrong margin": (
        '{"prompt": "p", "chosen": "a", "rejected": "b", "margin": "big"}',
        ["margin: should be a number"],
    ),
    "another format": ('{"prompt": "p", "completion": "a"}', ["mixed formats", "'prompt-completion'"]),
    "another style": (
        '{"prompt": "p", "chosen": [{"role": "assistant", "content": "a"}], '
        '"rejected": [{"role": "assistant", "content": "b"}]}',
        ["mixed formats: this row is conversational, most rows are plain"],
    ),
    "half and half": (
        '{"prompt": "p", "chosen": [{"role": "assistant", "content": "a"}], "rejected": "b"}',
        ["rejected: one response is text and another is messages"],
    ),
    "no role": (
        '{"prompt": "p", "chosen": [{"content": "a"}], "rejected": "b"}',
        ["chosen[0]: role should be text"],
    ),
    "tool calls": (
        '{"prompt": "p", "chosen": [{"role": "assistant", "tool_calls": [1]}], "rejected": "b"}',
        ["chosen[0]: tool_calls cannot be read"],
    ),
    "images": ('{"prompt": "p", "chosen": "a", "rejected": "b", "images": ["x"]}', ["images: cannot be read"]),
    "duplicate key": (
        '{"prompt": "p", "chosen": "a", "chosen": "c", "rejected": "b"}',
        ["'chosen' appears twice"],
    ),
    "invalid UTF-8": (
        b'{"prompt": "p", "chosen": "\xff", "rejected": "b"}',
        ["not UTF-8: byte 0xff at column 28"],
    ),
    "raw NUL": (b'{"prompt": "p", "chosen": "\0", "rejected": "b"}', ["NUL byte at column 28"]),
    "escaped NUL": (
        r'{"prompt": "p", "chosen": "a\u0000", "rejected": "b"}',
        ["chosen: holds a NUL character at 2"],
    ),
    "half a surrogate": (
        r'{"prompt": "\ud800", "chosen": "a", "rejected": "b"}',
        ["prompt: holds half a surrogate"],
    ),
    "deep": ("[" * 200_000, ["nested too deeply"]),
    "mark inside": (b"\xef\xbb\xbf" + GOOD.encode(), ["broken JSON"]),
}


@pytest.mark.parametrize("name", LINES)
def test_one_bad_line_is_named(name: str, tmp_path: Path) -> None:
    line, expected = LINES[name]
    path = write(tmp_path / "pairs.jsonl", GOOD, GOOD, line, GOOD)
    message = refused(path)
    assert "1 of 4 rows cannot be read" in message
    assert f"{path}:3: " in message
    for part in expected:
        assert part in message


def test_all_bad_lines_are_told_in_one_pass(tmp_path: Path) -> None:
    kinds = [line for line, _ in LINES.values() if line != LINES["deep"][0]]
    path = write(tmp_path / "pairs.jsonl", *[GOOD] * 30, *kinds, *[GOOD] * 3)
    message = refused(path)
    assert f"{len(kinds)} of {33 + len(kinds)} rows" in message
    assert all(f"{path}:{31 + i}: " in message for i in range(len(kinds)))


def test_the_list_is_capped_and_the_number_is_not(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", *[GOOD] * 200, *["{"] * 120)
    message = refused(path)
    assert "120 of 320 rows" in message and "... and 70 more" in message
    assert message.count("broken JSON") == 50


def test_a_share_of_bad_rows_may_be_skipped_and_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", *[GOOD] * 8, "{", "[]")
    dataset = read_records(path, max_bad=0.2)
    assert (len(dataset), dataset.rows) == (8, 10)
    assert [s.where for s in dataset.skipped] == [f"{path}:9", f"{path}:10"]
    assert "2 of 10" in refused(path, max_bad=0.19)
    with pytest.raises(TastemakerError, match="max_bad=2"):
        read_records(path, max_bad=2)


def test_a_lone_misspelt_prompt_is_not_read_as_an_implicit_one(tmp_path: Path) -> None:
    row = '{"promt": "p", "chosen": "a", "rejected": "b"}'
    assert "prompt: is missing; did you mean the column 'promt'" in refused(write(tmp_path / "p.jsonl", row))
    row = '{"prompt": "p", "completion": "a", "lable": true}'
    assert "label: is missing; did you mean the column 'lable'" in refused(write(tmp_path / "p.jsonl", row))
    fine = '{"prompt_id": "p", "chosen": "x a", "rejected": "x b"}'
    assert len(read_records(write(tmp_path / "p.jsonl", fine))) == 1


def test_a_byte_order_mark_at_the_start_is_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", b"\xef\xbb\xbf" + GOOD.encode())
    assert len(read_records(path)) == 1
    (tmp_path / "wide.jsonl").write_text(GOOD, encoding="utf-16")
    assert "Save the file as UTF-8" in refused(tmp_path / "wide.jsonl")


NAMES = ["pairs.jsonl", "pairs.json", "pairs.csv", "pairs.jsonl.gz"]


@pytest.mark.parametrize(
    "name,content", [*((n, c) for n in NAMES for c in (b"", b"\n \n")), ("pairs.json", b"[]")]
)
def test_an_empty_file_says_so(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert "holds no rows" in refused(tmp_path / name)


def test_an_absent_file_offers_the_nearest_name(tmp_path: Path) -> None:
    write(tmp_path / "pairs.jsonl", GOOD)
    message = refused(tmp_path / "pair.jsonl")
    assert "no such file" in message and str(tmp_path / "pairs.jsonl") in message
    assert "there is no folder" in refused(tmp_path / "nowhere" / "pairs.jsonl")


def test_an_unknown_extension_lists_the_known(tmp_path: Path) -> None:
    message = refused(write(tmp_path / "pairs.xlsx", GOOD))
    assert "'.xlsx' is not known" in message and ".jsonl" in message and ".parquet" in message


def test_a_folder_that_is_no_data_set_lists_its_files(tmp_path: Path) -> None:
    write(tmp_path / "pairs.jsonl", GOOD)
    assert "It holds pairs.jsonl" in refused(tmp_path)


def test_damaged_archives(tmp_path: Path) -> None:
    packed = gzip.compress(GOOD.encode() * 100)
    (tmp_path / "a.jsonl.gz").write_bytes(packed[:-20])
    (tmp_path / "b.jsonl.gz").write_bytes(GOOD.encode())
    (tmp_path / "c.parquet").write_bytes(b"PAR1 and nothing more")
    assert "not a whole gzip file" in refused(tmp_path / "a.jsonl.gz")
    assert "not a whole gzip file" in refused(tmp_path / "b.jsonl.gz")
    assert "not a readable Parquet file" in refused(tmp_path / "c.parquet")


def test_unknown_columns_list_the_formats_that_exist(tmp_path: Path) -> None:
    message = refused(write(tmp_path / "d.jsonl", '{"choosen": "a", "rejcted": "b", "x": 1}'))
    assert "columns choosen, rejcted, x" in message
    assert "'choosen': did you mean 'chosen'?" in message
    assert "preference (Comparison): chosen, rejected" in message


def test_a_kind_that_does_not_follow_lists_the_formats_that_give_it(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", '{"prompt": "p", "completion": "a"}')
    message = refused(path, kind=Comparison)
    assert "prompt, completion" in message and "Comparison is wanted" in message
    assert "preference (Comparison): chosen, rejected" in message and "unpaired" not in message
    with pytest.raises(TastemakerError, match="not a record class"):
        read_records(path, int)


def test_broken_json_arrays_name_the_line(tmp_path: Path) -> None:
    assert ":3: broken JSON" in refused(
        write(tmp_path / "d.json", f"[{GOOD},", GOOD + ",", '{"prompt": }', "]")
    )
    assert ":3: broken JSON: ',' or ']' is missing" in refused(
        write(tmp_path / "d.json", f"[{GOOD},", GOOD, GOOD, "]")
    )
    assert ":2: chosen" in refused(
        write(tmp_path / "d.json", f"[{GOOD},", '{"prompt": "p", "chosen": 1, "rejected": "b"},', GOOD, "]")
    )


def test_broken_csv_rows_name_the_line(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "prompt,chosen,rejected", "p,a,b", "p,a", 'p,a"b,c', "p,a,b", 'p,"a')
    message = refused(path)
    assert f"{path}:3: 2 cells under a header of 3" in message
    assert f"{path}:6: broken CSV" in message
    assert "column 'chosen' appears twice" in refused(write(tmp_path / "d.csv", "chosen,chosen", "a,b"))
    assert "labels: " in refused(write(tmp_path / "d.csv", "prompt,steps,labels", 'p,"[""s""]",[True]'))


@pytest.mark.parametrize(
    "row,field",
    [
        ({"prompt": "p", "responses": ["a", "b"], "ranking": [0]}, "ranking: has 1 entries for 2"),
        ({"prompt": "p", "responses": ["a"], "ranking": [0]}, "responses: should hold two or more"),
        ({"prompt": "p", "responses": ["a", "b"], "preferred": 2}, "preferred: should be an index below 2"),
        ({"prompt": "p", "responses": ["a", "b"], "ranking": [0, 1], "shown_order": [1, 1]}, "shown_order"),
        ({"prompt": "p", "completions": ["a"], "labels": [True, False]}, "labels: has 2 entries for 1 steps"),
        ({"prompt": "p", "completion": "a", "label": "maybe"}, "label: should be true or false"),
        (
            {"prompt": "p", "responses": ["a", "b"], "annotations": [{"ranking": [0, "x"]}]},
            "annotations[0].ranking",
        ),
    ],
)
def test_values_that_do_not_fit_together(row: dict, field: str) -> None:
    with pytest.raises(TastemakerError) as caught:
        read_records([row])
    assert f"rows[0]: {field}" in str(caught.value)


# ---------------------------------------------------------------------------------------- properties

_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(
    str.strip
)
_role = st.sampled_from(["user", "system"])
_chat = st.lists(st.builds(Message, _role, _text), min_size=1, max_size=3).map(tuple)
_prompt = st.one_of(_text.filter(lambda t: "Human:" not in t), _chat)
_demonstration = st.builds(Demonstration, prompt=_prompt, response=_text)
_judgement = st.builds(Judgement, prompt=_prompt, response=_text, desirable=st.booleans())
_steps = st.lists(st.tuples(_text, st.booleans()), min_size=1, max_size=4)
_labels = st.builds(
    lambda prompt, steps: StepLabels(
        prompt=prompt, steps=tuple(s for s, _ in steps), labels=tuple(b for _, b in steps)
    ),
    _prompt,
    _steps,
)
_question = st.builds(Question, prompt=_prompt, answer=st.none() | _text)


@st.composite
def _comparison(draw: st.DrawFn) -> Comparison:
    responses = draw(st.lists(_text, min_size=2, max_size=4, unique_by=str.strip))
    levels = draw(st.lists(st.integers(0, 3), min_size=len(responses), max_size=len(responses)))
    ranking = tuple(sorted(set(levels)).index(v) for v in levels)
    strength = draw(st.none() | st.floats(-9, 9))
    return Comparison(prompt=draw(_prompt), responses=tuple(responses), ranking=ranking, strength=strength)


@settings(max_examples=60, deadline=None)
@given(
    record=st.one_of(_demonstration, _judgement, _labels, _question, _comparison()),
    name=st.sampled_from(["d.jsonl", "d.jsonl.gz"]),
)
def test_records_survive_json(record: Any, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("round") / name
    write_records(path, [record])
    (found,) = read_records(path, type(record)).records
    fields = {
        name: getattr(record, name) for name in record.__dataclass_fields__ if name not in ("row", "columns")
    }
    assert {name: getattr(found, name) for name in fields} == fields


def test_500_mutated_lines_give_records_or_one_plain_error(tmp_path: Path) -> None:
    rng = random.Random(7)
    seeds = [
        GOOD,
        '{"chosen": "\\n\\nHuman: a\\n\\nAssistant: b", "rejected": "\\n\\nHuman: a\\n\\nAssistant: c"}',
        '{"messages": [{"role": "user", "content": "é"}, {"role": "assistant", "content": "\\u00e9"}]}',
        '{"prompt": "p", "responses": ["a", "b"], "scores": [1.5, -2e3], "margin": 0.5}',
    ]
    outcomes = {"read": 0, "refused": 0}
    unnamed = 0
    for _ in range(500):
        line = bytearray(rng.choice(seeds).encode())
        for _mutation in range(rng.randint(1, 2)):
            at = rng.randrange(len(line))
            action = rng.randrange(4)
            if action == 0:
                line[at] = rng.choice(b"aZ09 \xff\n{}")
            elif action == 1:
                del line[at : at + rng.randint(1, 5)]
            elif action == 2:
                line[at:at] = rng.choice(
                    [b'"', b"{", b"]", b",", b"\\", b"null", b"\xc3", b"1e999", b"\\ud800", b"\0", b"\n"]
                )
            else:
                line[at:at] = line[at : at + rng.randint(1, 9)]
            line = line or bytearray(b"x")
        path = tmp_path / f"d.{rng.choice(['jsonl', 'jsonl', 'json', 'csv'])}"
        path.write_bytes(bytes(line))
        try:
            dataset = read_records(path)
            outcomes["read"] += 1
            assert dataset.records
        except TastemakerError as error:
            outcomes["refused"] += 1
            message = str(error)
            message.encode()
            unnamed += str(path) not in message
    assert unnamed == 0
    assert min(outcomes.values()) > 25


def test_a_bad_line_costs_no_good_one(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"row {i}"}) if i % 3 else "{broken" for i in range(300)]
    dataset = read_records(write(tmp_path / "d.jsonl", *rows), max_bad=0.5)
    assert [r.response for r in dataset.records] == [f"row {i}" for i in range(300) if i % 3]
    assert len(dataset.skipped) == 100
