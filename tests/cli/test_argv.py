"""Reading a command line: switches, lists, numbers, spellings."""

from __future__ import annotations

import pytest

from tastemaker.cli.argv import read

TYPES = {
    "model": str,
    "max_steps": int,
    "use_peft": bool,
    "resume": bool,
    "dtype": str,
    "methods": tuple[str, ...],
    "learning_rate": float | None,
}


@pytest.mark.parametrize(
    "argv, values",
    [
        ("--model m --max-steps 5", {"--model": "m", "--max-steps": "5"}),
        ("--model=m --max_steps=5", {"--model": "m", "--max_steps": "5"}),
        ("--model_name_or_path=a=b", {"--model_name_or_path": "a=b"}),
        ("--max-steps -1 --learning-rate -1e-3", {"--max-steps": "-1", "--learning-rate": "-1e-3"}),
        ("--use-peft", {"--use-peft": True}),
        ("--use-peft true", {"--use-peft": True}),
        ("--use_peft false", {"--use_peft": False}),
        ("--use-peft=no", {"--use-peft": False}),
        ("--no-use-peft", {"--use-peft": False}),
        ("--no_use_peft", {"--use_peft": False}),
        ("--peft", {"--peft": True}),
        ("--no-peft", {"--peft": False}),
        ("--bf16 --model m", {"--bf16": True, "--model": "m"}),
        ("--bf16 false", {"--bf16": False}),
        ("--use-peft --max-steps 3", {"--use-peft": True, "--max-steps": "3"}),
        ("--use-peft maybe", {"--use-peft": True}),
        ("--use-peft=maybe", {"--use-peft": "maybe"}),
        ("--resume_from_checkpoint runs/x", {"--resume_from_checkpoint": "runs/x"}),
        ("--methods dpo,ppo", {"--methods": ["dpo", "ppo"]}),
        ("--methods dpo ppo --model m", {"--methods": ["dpo", "ppo"], "--model": "m"}),
        ("--methods dpo --methods ppo", {"--methods": ["dpo", "ppo"]}),
        ("--methods=dpo,ppo --methods sft", {"--methods": ["dpo", "ppo", "sft"]}),
        ("--max-steps 1 --max-steps 2", {"--max-steps": "2"}),
        ("--unknown a b --model m", {"--unknown": "a b", "--model": "m"}),
        ("--unknown", {"--unknown": True}),
        ("--sft.max-steps 3", {"--sft.max-steps": "3"}),
        ("--dpo.no-use-peft", {"--dpo.use-peft": False}),
        ("--dpo.use-peft --model m", {"--dpo.use-peft": True, "--model": "m"}),
    ],
)
def test_values(argv: str, values: dict[str, object]):
    assert read(argv.split(), TYPES, TYPES).values == values


def test_words_and_what_follows_two_hyphens():
    assert read(["show", "runs/x"], TYPES).words == ["show", "runs/x"]
    given = read(["--use-peft", "--", "--model", "m"], TYPES)
    assert given.words == ["--model", "m"]
    assert given.values == {"--use-peft": True}
    assert read(["--use-peft", "maybe"], TYPES).words == ["maybe"]


@pytest.mark.parametrize("argv", ["--model", "--model --use-peft", "--methods --model m"])
def test_a_value_that_is_not_there(argv: str):
    given = read(argv.split(), TYPES)
    assert [p for p in given.problems if "needs a value" in p]
    assert given.values.get("--model") in (None, "m")


def test_one_hyphen_is_no_option():
    assert read(["-m", "x"], TYPES).problems == ["-m: no such option; options begin with two hyphens"]


@pytest.mark.parametrize("argv", [["-h"], ["--help"], ["--model", "m", "--help"]])
def test_help_is_heard_anywhere(argv: list[str]):
    assert read(argv, TYPES).help
