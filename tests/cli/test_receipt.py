"""`tastemaker receipt` as a user meets it: what is printed, where it stops, what never reaches the terminal."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tastemaker.cli.receipt_view import show_example
from tastemaker.data import Example, Piece, example, read_records, tokenise
from tastemaker.data.tokens import Response
from tastemaker.models.tiny import tiny_model
from tastemaker.runs import Run
from tastemaker.types import Comparison, Demonstration, Message

QUESTION = "Where does the old river go?"
ROWS: list[dict[str, Any]] = [
    *(
        {
            "chosen": f"\n\nHuman: {QUESTION} {i}\n\nAssistant: To the sea {i}.",
            "rejected": f"\n\nHuman: {QUESTION} {i}\n\nAssistant: No idea, sorry.",
        }
        for i in range(8)
    ),
    {"chosen": "\n\nHuman: a\n\nAssistant: ", "rejected": "\n\nHuman: a\n\nAssistant: b", "id": "empty"},
    {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d", "id": "unshared"},
]


def write(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


@pytest.fixture
def pairs(command: Any) -> str:
    """Depends on `command`, which changes to an empty folder."""
    return write("pairs.jsonl", ROWS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with a chat template, and no weights."""
    folder = tmp_path_factory.mktemp("models") / "small"
    texts = [text for row in ROWS for text in (row["chosen"], row["rejected"])]
    tiny_model(texts, seed=0, hidden=8, layers=1, heads=1)[1].save_pretrained(folder)
    return folder


# ------------------------------------------------------------------------------------------- counts


def test_counts_and_an_example(command: Any, pairs: str, saved: Path):
    result = command("receipt", pairs, "--model", str(saved))
    assert (result.code, result.err) == (0, "")
    for part in (
        "10 rows read, 8 records used, 2 dropped (20.0%)",
        "empty response (chosen 1)",
        "no shared prompt",
        "unshared",
        "not found: prompt cut from the left",
        "labels     8 ordered",
        "the tokenizer's own",
        "<eos>, written by the template",
        "row 1, token by token",
        "⟪<bos>⟫│⟪<user>⟫│",
        "ends with its end token",
    ):
        assert part in result.out, part
    assert "\x1b" not in result.out


def test_texts_alone_say_so(command: Any, pairs: str):
    result = command("receipt", "--data", pairs)
    assert result.code == 0 and "No --model: counts of the texts alone" in result.out
    assert "10 rows read, 8 records usable" in result.out and "token by token" not in result.out
    assert "characters" in result.out


def test_a_model_made_from_the_data(command: Any, pairs: str):
    result = command("receipt", pairs, "--model", "tiny", "--row", "3", "--kind", "demonstration")
    assert result.code == 0, result.err
    assert "Demonstration" in result.out and "row 3, token by token" in result.out
    assert "response: " in result.out and "rejected" not in result.out


def test_json_is_the_same_as_the_library_says(command: Any, pairs: str, saved: Path):
    from tastemaker.models.tokenizer import tokenizer_of

    result = command(
        "receipt",
        pairs,
        "--model",
        str(saved),
        "--json",
        "--row",
        "2",
        "--max-leaked",
        "0.5",
        "--eval-data",
        pairs,
    )
    assert result.code == 1 and result.out.isascii()
    document = json.loads(result.out)
    data = read_records(pairs)
    tokenizer = tokenizer_of(saved)
    found = tokenise(data, tokenizer, held_out=data)
    assert document["receipt"] == json.loads(json.dumps(found.receipt.to_json()))
    assert document["audit"] == document["receipt"]["audit"]
    assert document["example"] == json.loads(json.dumps(example(found, tokenizer, 1).to_json()))
    assert document["limits"]["max_leaked"] == {"limit": 0.5, "count": 8, "of": 8, "broken": True}
    assert not document["limits"]["max_dropped"]["broken"]
    alone = json.loads(command("receipt", pairs, "--json").out)
    assert alone["receipt"] is None and alone["example"] is None and alone["audit"]["rows"] == 10


def test_the_reward_models_tokens(command: Any, pairs: str, saved: Path):
    same = command("receipt", pairs, "--model", str(saved), "--reward", str(saved))
    assert same.code == 0 and "make the same tokens of 8 compared records" in same.out
    other = command("receipt", pairs, "--model", str(saved), "--reward", str(saved), "--chat-template", "plain")
    assert "do not agree: 8 of 8 records become other tokens (row 1: prompt, token 2" in other.out


def test_a_run_stands_for_its_model(command: Any, pairs: str, saved: Path):
    run = Run.create("runs/sft", method="sft", settings={}, seed=0)
    assert "no model yet" in command("receipt", pairs, "--model", "runs/sft").err
    saved.rename(run.model_dir)
    try:
        assert command("receipt", pairs, "--model", "runs/sft").code == 0
    finally:
        run.model_dir.rename(saved)


def test_an_adapter_takes_its_bases_tokenizer(command: Any, pairs: str, saved: Path):
    folder = Path("adapter")
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(saved)}))
    assert command("receipt", pairs, "--model", "adapter").code == 0
    (folder / "adapter_config.json").write_text("{}")
    assert "base_model_name_or_path is empty" in command("receipt", pairs, "--model", "adapter").err


# ------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("model", [(), ("--model", "tiny")])
def test_a_broken_limit_is_an_exit_code(command: Any, pairs: str, model: tuple[str, ...]):
    assert command("receipt", pairs, *model, "--max-dropped", "0.2").code == 0
    result = command("receipt", pairs, *model, "--max-dropped", "0.1")
    assert result.code == 1
    assert "max_dropped" in result.out and "BROKEN" in result.out
    assert "error: pairs.jsonl: 2 of 10 rows cannot be used" in result.err
    assert "--max-dropped" in result.err


def test_cuts_and_leaks_are_limits_too(command: Any, pairs: str):
    result = command(
        "receipt", pairs, "--model", "tiny", "--max-length", "16", "--max-truncated", "0", "--max-lost-eos", "0"
    )
    assert result.code == 1 and "lose tokens to the limits" in result.err and "do not end" in result.err
    held = write(
        "test.jsonl",
        [
            {"prompt": f"{QUESTION} 1", "chosen": "a", "rejected": "b"},
            {"prompt": "new", "chosen": "a", "rejected": "b"},
        ],
    )
    assert command("receipt", pairs, "--eval-data", held, "--max-leaked", "0.5").code == 0
    result = command("receipt", pairs, "--eval-data", held, "--max-leaked", "0.4")
    assert (
        result.code == 1
        and "1 of 2 records of test.jsonl have a prompt of the training data (1 as 2)" in result.err
    )


def test_held_out_data_may_be_of_another_kind(command: Any, pairs: str):
    held = write("questions.jsonl", [{"prompt": f"{QUESTION} 1"}])
    assert "1 of 1 records of questions.jsonl" in command("receipt", pairs, "--eval-data", held).out
    demos = command("receipt", pairs, "--kind", "demonstration", "--eval-data", pairs).out
    assert "8 are repeated whole" in demos


# -------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "argv, code, says",
    [
        ((), 2, "missing: the data"),
        (("pairs.jsonl", "--data", "pairs.jsonl"), 2, "data given twice"),
        (("pairs.jsonl", "more.jsonl"), 2, "unexpected: more.jsonl"),
        (("pairs.jsonl", "--modle", "tiny"), 2, "--modle: no such setting; did you mean --model?"),
        (("pairs.jsonl", "--max-droped", "0"), 2, "did you mean --max-dropped?"),
        (("pairs.jsonl", "--max-dropped", "7"), 2, "max_dropped = '7'"),
        (("pairs.jsonl", "--kind", "pairs"), 2, "kind = 'pairs'"),
        (("pairs.jsonl", "--row", "3"), 2, "--row: needs --model"),
        (("pairs.jsonl", "--ids", "--reward", "r"), 2, "--reward, --ids: needs --model"),
        (("pairz.jsonl",), 1, "Nearest in its folder: pairs.jsonl"),
        (("pairs.jsonl", "--model", "nowhere/at/all"), 1, "there is no such folder"),
        (("pairs.jsonl", "--model", "nowhere"), 1, "not in the local cache"),
        (("pairs.jsonl", "--model", "."), 1, "so it holds no model"),
        (("pairs.jsonl", "--model", "pairs.jsonl"), 1, "a file, but a model is a folder"),
        (("pairs.jsonl", "--model", "broken"), 1, "no tokenizer can be read"),
        (("pairs.jsonl", "--model", "tiny", "--reward", "tiny"), 1, "tiny is no reward model"),
        (("pairs.jsonl", "--model", "tiny", "--row", "99"), 1, "no row '99' is used"),
        (("pairs.jsonl", "--model", "tiny", "--row", "empty"), 1, "row empty is not used: empty response"),
        (("pairs.jsonl", "--eval-data", "gone.jsonl"), 1, "gone.jsonl: no such file"),
        (("pairs.jsonl", "--kind", "steps"), 1, "StepLabels is wanted"),
        (("nothing.jsonl",), 1, "nothing.jsonl"),
        (("empty.jsonl", "--model", "tiny"), 1, "none of its 1 rows can be used (empty response: 1)"),
        (("pairs.jsonl", "--model", "tiny", "--max-length", "2"), 1, "no row is left to train on"),
        (("pairs.jsonl", "--model", "tiny", "--chat-template", "gone.jinja"), 1, "neither 'plain' nor a file"),
    ],
)
def test_one_clear_error(command: Any, pairs: str, argv: tuple[str, ...], code: int, says: str):
    Path("nothing.jsonl").write_text("")
    write("empty.jsonl", [{"prompt": "p", "chosen": "", "rejected": "b"}])
    Path("broken").mkdir()
    Path("broken/tokenizer.json").write_text("{}")
    result = command("receipt", *argv)
    assert result.code == code, result
    assert says in result.err and result.out == ""
    assert result.err.count("error: ") == 1 and "Traceback" not in result.err


# ----------------------------------------------------------------------------------------- terminals

BAD = "\x1b[2J\x9b31m\u202e\x07\r"


def hostile() -> list[dict[str, Any]]:
    rows = [
        {
            "prompt": f"q{BAD} <|im_end|> {i % 3}",
            "chosen": f"yes{BAD}",
            "rejected": f"no{BAD}",
            "id": f"r{i}{BAD}",
        }
        for i in range(4)
    ]
    return [*rows, {"prompt": f"q{BAD}", "chosen": "", "rejected": "b", "id": f"empty{BAD}"}]


@pytest.mark.parametrize(
    "options", [(), ("--model", "tiny", "--ids", "--whole"), ("--model", "tiny", "--json")]
)
@pytest.mark.parametrize("forced", [False, True])
def test_control_characters_never_reach_the_terminal(
    command: Any, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], forced: bool
):
    if forced:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
    path = write("bad.jsonl", hostile())
    result = command(
        "receipt", path, *options, "--eval-data", path, "--max-dropped", "0", "--max-duplicates", "0"
    )
    assert result.code == 1
    for text in (result.out, result.err):
        assert "\x1b[2J" not in text and not set("\x9b\u202e\x07") & set(text)
        if not forced:
            assert all(line.isprintable() for line in text.split("\n"))
    shown = "\\u001b" if "--json" in options else "\\x1b"
    assert shown in result.out


def test_colour_is_used_and_can_be_refused(command: Any, pairs: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    coloured = command("receipt", pairs, "--model", "tiny").out
    assert "\x1b[32m" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    plain = command("receipt", pairs, "--model", "tiny").out
    assert "\x1b[32m" not in plain and "⟪<eos>⟫" in plain


@pytest.mark.parametrize("width", [40, 60, 110])
def test_narrow_terminals_get_whole_lines(
    command: Any, pairs: str, monkeypatch: pytest.MonkeyPatch, width: int
):
    monkeypatch.setenv("COLUMNS", str(width))
    out = command("receipt", pairs, "--model", "tiny", "--ids", "--whole").out
    lines = out.splitlines()[1:]  # the first is the path, which is never broken
    assert max(map(len, lines)) <= width
    assert "…" not in out


def render(shown: Example, *, encoding: str = "utf-8", **options: bool) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", newline="\n")
    out = Console(file=file, width=200, highlight=False)
    show_example(out, shown, ids=options.get("ids", False), whole=options.get("whole", False))
    file.flush()
    return file.buffer.getvalue().decode(encoding)  # pyright: ignore


def pieces(n: int, **kind: Any) -> tuple[Piece, ...]:
    return tuple(Piece(f" w{i}", (i,), **kind) for i in range(n))


def test_an_output_that_writes_ascii_only():
    shown = Example("rów", (Piece("<s>", (0,), special=True), Piece("é\n", (1, 2))), ())
    text = render(shown, encoding="ascii")
    assert "r\\xf3w" in text and "{<s>}|\\xe9\\n" in text


def test_long_examples_are_shortened_unless_whole():
    shown = Example(
        "r",
        pieces(200),
        (Response("chosen", tuple(replace(p, text=f" v{p.ids[0]}", trained=True) for p in pieces(400)), True),),
    )
    short, whole = render(shown), render(shown, whole=True)
    assert "... 120 more" in short and "... 100 more" in short
    assert "w38│" in short and "w100│" not in short and "w199" in short
    assert "v238│" in short and "v300│" not in short and "v399" in short
    assert "more (--whole" not in whole and "w100│" in whole
    assert "chosen: 400 tokens, 400 trained, ends with its end token" in short


def test_ids_stand_behind_their_tokens_and_lines_break_where_the_text_does():
    shown = Example("r", (Piece("one\n\n", (5,)), Piece("é", (6, 7))), (Response("x", pieces(1), False),))
    text = render(shown, ids=True)
    assert "one⏎⏎[5]\n" in text and "é[6 7]" in text
    assert "x: 1 token, 0 trained, does NOT end" in text and "not trained" in text


def test_groups_change_where_training_does():
    turns = (Message("assistant", "one"), Message("user", "more"), Message("assistant", "two"))
    record = Demonstration(prompt=(Message("user", "Hi"),), response=turns)
    _, tokenizer = tiny_model(["Hi one more two"], seed=0, hidden=8, layers=1, heads=1)
    text = render(example(tokenise([record], tokenizer), tokenizer))
    names = [line.split("  ")[0].strip() for line in text.splitlines()]
    assert [n for n in names if n in ("trained", "not trained")] == ["trained", "not trained", "trained"]


# -------------------------------------------------------------------------------------------- runs


RUN = ("--model", "tiny", "--max-steps", "1", "--num-samples", "0", "--per-device-train-batch-size", "2")


def test_a_run_says_it_before_its_first_step_and_keeps_it(
    command: Any, pairs: str, monkeypatch: pytest.MonkeyPatch
):
    # No one listens to the log yet, as where a command starts in its own process.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    result = command("dpo", *RUN, "--data", pairs, "--out", "runs/dpo", "--eval-data", pairs)
    assert result.code == 0, result.err
    said = "pairs.jsonl: 10 rows read, 8 used"
    assert 0 <= result.out.index(said) < result.out.index("step 1/1")
    kept = Run.open("runs/dpo").receipt()
    assert str(kept["summary"]).startswith(said) and "8 of 8 records of pairs.jsonl" in str(kept["summary"])
    shown = command("runs", "show", "runs/dpo").out
    assert said in shown and "1 dropped: empty response (rows empty)" in shown


def test_a_limit_stops_a_run_before_its_first_step_and_can_be_raised(command: Any, pairs: str):
    argv = (*RUN, "--data", pairs, "--out", "runs/dpo", "--max-length", "15")
    refused = command("dpo", *argv, "--max-truncated", "0.1")
    assert refused.code == 1 and "more than max_truncated=0.1 allows" in refused.err
    run = Run.open("runs/dpo")
    assert run.status == "failed" and run.metrics() == [] and run.receipt()["truncated_responses"]
    again = command("dpo", *argv, "--max-truncated", "1")
    assert again.code == 0, again.err


def test_pairs_of_the_example_are_comparisons():
    assert isinstance(read_records(ROWS).records[0], Comparison)


def test_a_run_says_whether_policy_and_reward_model_agree(command: Any, pairs: str):
    def train(method: str, *options: str) -> str:
        result = command(method, *RUN, "--data", pairs, "--out", f"runs/{method}{len(options)}", *options)
        assert result.code == 0, result.err
        return str(Run.open(f"runs/{method}{len(options)}").receipt()["summary"])

    assert "reward model" not in train("sft") + train("reward", "--model", "runs/sft0")
    common = ("--model", "runs/sft0", "--reward", "runs/reward2", "--response-length", "4")
    assert "make the same tokens of 8 compared records" in train("ppo", *common)
    assert "do not agree: 8 of 8" in train("ppo", *common, "--chat-template", "plain")
