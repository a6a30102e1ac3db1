"""From a command line and a file to the call of `train`."""

from __future__ import annotations

import inspect
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tastemaker.cli import training
from tastemaker.config import CompareSettings, TrainSettings
from tastemaker.errors import TastemakerError
from tastemaker.methods import DPO, PPO, SFT
from tastemaker.studies import compare

OURS = (
    "dpo --model m --data d.jsonl --out o --beta 0.05 --max-steps 7 --save-steps 3 --seed 5 --max-length 256 "
    "--per-device-train-batch-size 4 --gradient-accumulation-steps 2 --learning-rate 1e-5 --use-peft "
    "--lora-r 8 --ref-model base --precompute-ref-log-probs --num-train-epochs 1 --warmup-steps 0.1 "
    "--dtype bfloat16"
)
TRLS = (
    "dpo --model_name_or_path m --dataset_name d.jsonl --output_dir o --beta=0.05 --max_steps 7 --save_steps 3 "
    "--seed 5 --max_length 256 --per_device_train_batch_size 4 --gradient_accumulation_steps 2 "
    "--learning_rate 0.00001 --use_peft true --lora_r 8 --ref_model base --precompute_ref_log_probs True "
    "--num_train_epochs 1.0 --warmup_ratio 0.1 --bf16 --report_to none --padding_free --dataset_num_proc 4 "
    "--eval_strategy no --loss_type sigmoid"
)


def test_trls_command_line_means_the_same(command: Any, trainer: Any):
    results = [command(*line.split()) for line in (OURS, TRLS)]
    assert [r.code for r in results] == [0, 0], results
    first, second = ({k: v for k, v in call.items() if k != "progress"} for call in trainer.calls)
    assert first == second
    assert first["method"] == DPO(beta=0.05)
    assert (first["model"], first["data"], first["out"]) == ("m", "d.jsonl", "o")
    assert first["settings"] == TrainSettings(
        max_steps=7,
        save_steps=3,
        seed=5,
        max_length=256,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=1e-5,
        use_peft=True,
        lora_r=8,
        ref_model="base",
        precompute_ref_log_probs=True,
        num_train_epochs=1,
        warmup_steps=0.1,
        dtype="bfloat16",
    )


def test_trls_ppo_command_line(command: Any, trainer: Any):
    line = (
        "ppo --sft_model_path m --model_name_or_path m --reward_model_path r --dataset_name d --kl_coef 0.1 "
        "--num_ppo_epochs 2 --cliprange 0.1 --gamma 0.99 --lam 0.9 --response_length 16 --stop_token eos "
        "--local_rollout_forward_batch_size 8 --missing_eos_penalty none"
    )
    assert command(*line.split()).code == 0
    call = trainer.calls[0]
    assert call["method"] == PPO(
        kl_coef=0.1,
        num_ppo_epochs=2,
        cliprange=0.1,
        gamma=0.99,
        lam=0.9,
        response_length=16,
        missing_eos_penalty=None,
    )
    assert (call["model"], call["reward"], call["out"]) == ("m", "r", "runs/ppo")
    assert call["settings"].learning_rate == PPO.defaults["learning_rate"]


def test_flags_overrule_the_file_under_any_name(command: Any, trainer: Any):
    Path("dpo.yaml").write_text(
        "model_name_or_path: theirs\ndataset_name: d\noutput_dir: o\nbeta: 0.5\nmax_steps: 3\nbf16: true\n"
    )
    assert (
        command("dpo", "--config", "dpo.yaml", "--model", "mine", "--beta", "0.2", "--dtype", "float32").code
        == 0
    )
    call = trainer.calls[0]
    assert (call["model"], call["data"], call["out"]) == ("mine", "d", "o")
    assert call["method"].beta == 0.2
    assert (call["settings"].max_steps, call["settings"].dtype) == (3, "float32")


def test_file_and_flags_wrong_together(command: Any, trainer: Any):
    Path("dpo.yaml").write_text("model: m\nbetta: 0.5\nmax_steps: soon\n")
    result = command("dpo", "--config", "dpo.yaml", "--seed", "x")
    assert result.code == 2
    assert "dpo.yaml line 2: betta: no such setting; did you mean beta?" in result.err
    assert "dpo.yaml line 3: max_steps = 'soon'" in result.err
    assert "seed = 'x'" in result.err
    assert trainer.calls == []


@pytest.mark.parametrize(
    "text, says",
    [("beta: 1\nbeta: 2\n", "line 2: beta is already given in line 1"), ("config: other.yaml\n", "config")],
)
def test_files_that_are_refused(command: Any, text: str, says: str):
    Path("dpo.yaml").write_text(text)
    result = command("dpo", "--config", "dpo.yaml", "--model", "m", "--data", "d")
    assert result.code == 2
    assert says in result.err


def test_a_file_made_for_another_method(command: Any, trainer: Any):
    Path("dpo.yaml").write_text("method: dpo\nmodel: m\ndata: d\n")
    assert command("dpo", "--config", "dpo.yaml").code == 0
    assert "the file is for dpo" in command("sft", "--config", "dpo.yaml").err


def test_values_that_a_method_refuses_are_usage(command: Any, trainer: Any):
    result = command("dpo", "--model", "m", "--data", "d", "--beta", "-1")
    assert result.code == 2
    assert "beta" in result.err


@pytest.mark.parametrize(
    "error, code, says",
    [
        (TastemakerError("data.jsonl line 3: no prompt"), 1, "error: data.jsonl line 3: no prompt"),
        (KeyboardInterrupt(), 130, "interrupted; the same command continues"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
    ],
)
def test_errors_while_running(
    command: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, says: str
):
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("tastemaker.training.train", fail)
    result = command("sft", "--model", "m", "--data", "d")
    assert result.code == code
    assert says in result.err
    assert "Traceback" not in result.err


def test_a_time_limit_is_an_interruption(command: Any, monkeypatch: pytest.MonkeyPatch):
    def wait(*args: object, **kwargs: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(5)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("tastemaker.training.train", wait)
    result = command("sft", "--model", "m", "--data", "d")
    assert (result.code, "interrupted" in result.err) == (130, True)
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_error_of_ours_keeps_its_traceback(command: Any, monkeypatch: pytest.MonkeyPatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tastemaker.training.train", fail)
    with pytest.raises(ZeroDivisionError):
        command("sft", "--model", "m", "--data", "d")


def test_the_result_is_shown(command: Any, trainer: Any):
    result = command("sft", "--model", "m", "--data", "d", "--out", "runs/[mine]")
    assert result.code == 0
    assert trainer.calls[0]["method"] == SFT()
    assert "runs/[mine]/model" in result.out
    assert "loss 0.5" in result.out


# --------------------------------------------------------------------------------------------- compare


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[CompareSettings]:
    """What `compare` was called with."""
    calls: list[CompareSettings] = []
    signature = inspect.signature(compare.compare)

    def stand_in(*args: Any, **kwargs: Any) -> None:
        calls.append(signature.bind(*args, **kwargs).arguments["settings"])

    monkeypatch.setattr(compare, "compare", stand_in)
    monkeypatch.setattr(training, "show_study", lambda out, study: None)
    return calls


def test_compare_without_a_word_is_the_town(command: Any, compared: list[CompareSettings]):
    assert command("compare").code == 0
    assert compared == [CompareSettings()]


def test_compare_with_stages(command: Any, compared: list[CompareSettings]):
    line = (
        "compare --model_name_or_path tiny --dataset_name pairs.jsonl --methods ppo dpo --seeds 3 "
        "--output_dir o --sft.max-steps 50 --dpo.beta 0.1 --ppo.num_ppo_epochs 2 --all.bf16 --dpo.no-use-peft"
    )
    result = command(*line.split())
    assert result.code == 0, result.err
    assert compared == [
        CompareSettings(
            model="tiny",
            data="pairs.jsonl",
            methods=("ppo", "dpo"),
            seeds=3,
            out="o",
            stages={
                "sft": {"max_steps": 50},
                "dpo": {"beta": 0.1, "use_peft": False},
                "ppo": {"num_ppo_epochs": 2},
                "all": {"dtype": "bfloat16"},
            },
        )
    ]


def test_compare_from_a_file(command: Any, compared: list[CompareSettings]):
    Path("c.yaml").write_text(
        "seeds: 4\nmethods: [dpo]\ndpo: {beta: 0.3, max_steps: 9}\nsft.max_steps: 2\n"
        "stages: {reward: {seed: 1}}\n"
    )
    assert command("compare", "--config", "c.yaml", "--dpo.beta", "0.4").code == 0
    assert compared[0].seeds == 4
    assert compared[0].methods == ("dpo",)
    assert compared[0].stages == {
        "dpo": {"beta": 0.4, "max_steps": 9},
        "sft": {"max_steps": 2},
        "reward": {"seed": 1},
    }


def test_compare_says_where_a_setting_belongs(command: Any, compared: list[CompareSettings]):
    Path("c.yaml").write_text("seeds: 4\ndpo:\n  betta: 0.3\n")
    result = command(
        "compare",
        "--config",
        "c.yaml",
        "--max-steps",
        "5",
        "--dpoo.beta",
        "1",
        "--sft.beta",
        "1",
        "--methods",
        "simpoo",
    )
    assert result.code == 2
    assert "c.yaml line 2: in dpo: betta: no such setting; did you mean beta?" in result.err
    assert "--max-steps: belongs to a stage: --all.max-steps (every stage) or --sft.max-steps" in result.err
    assert "--dpoo.beta: no such stage; did you mean dpo?" in result.err
    assert "--sft.beta: no such setting" in result.err
    assert "no such method: simpoo; did you mean simpo?" in command("compare", "--methods", "simpoo").err
    assert compared == []
