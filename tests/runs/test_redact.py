"""A planted secret is found in no file of a run."""

import sys
import time

import pytest
import torch

from tastemaker.runs import Parent, Run, Source, redact
from tastemaker.runs.redact import environment_secrets, redact_command, redact_text

CANARY = "C4n4ryC4n4ryC4n4ryC4n4ry"
LEAKS = [
    f"hf_{CANARY}",
    f"sk-{CANARY}",
    f"sk-proj-{CANARY}",
    f"Authorization: Bearer {CANARY}",
    f"bearer  {CANARY}",
    f"postgresql+psycopg2://labels:{CANARY}@db.example/labels",
    f"redis://:{CANARY}@host",
    f"https://user:p@{CANARY}@host/path",
    f"ghp_{CANARY}",
    f"glpat-{CANARY}",
]


@pytest.mark.parametrize("leak", LEAKS)
def test_text_loses_its_secret_and_nothing_else(leak):
    cleaned = redact_text(f"before {leak} after")
    assert CANARY not in cleaned
    assert cleaned.startswith("before ")
    assert cleaned.endswith(" after")


@pytest.mark.parametrize(
    "text",
    [
        "the bearer of good news",
        "a bearer certificate is paid to whoever holds it",
        "hf-internal-testing/tiny-random-LlamaForCausalLM",
        "task-based-learning-of-preferences",
        "https://example.org:8080/a@b",
        "runs/dpo-1a2b3c4d",
        "see http://a:80 and mail b@c.d",
    ],
)
def test_ordinary_text_stays(text):
    assert redact_text(text) == text


def test_keys_that_name_a_secret_lose_their_text():
    settings = {"judge": {"api_key": CANARY, "password": CANARY}, "hub_token": CANARY, "max_new_tokens": 5}
    cleaned = redact(settings)
    assert CANARY not in str(cleaned)
    assert cleaned["max_new_tokens"] == 5
    assert redact({"pad_token": "<pad>", "eos_token": "</s>"}) == {"pad_token": "<pad>", "eos_token": "</s>"}


@pytest.mark.parametrize("flags", [["--hub-token", CANARY], [f"--api_key={CANARY}"], ["--token", CANARY]])
def test_a_command_keeps_its_other_words(flags):
    shown = redact_command(["tastemaker", "dpo", *flags, "--beta", "0.1"])
    assert CANARY not in shown
    assert shown.startswith("tastemaker dpo ")
    assert shown.endswith("--beta 0.1")


def test_environment_secrets_are_known_by_the_names_of_their_variables():
    environment = {
        "HF_TOKEN": CANARY,
        "WANDB_API_KEY": CANARY[::-1],
        "TOKENIZERS_PARALLELISM": "true" * 5,
        "PASSWORD": "word",
    }
    assert environment_secrets(environment) == {CANARY, CANARY[::-1]}


def test_long_text_is_read_in_linear_time():
    begin = time.process_time()
    for text in ("a" * 300_000, "bearer " * 40_000, "a:" * 150_000, "http://a:" * 30_000, "sk-" * 100_000):
        redact_text(text)
    assert time.process_time() - begin < 5


def test_no_file_of_a_run_holds_a_planted_secret(tmp_path, monkeypatch):
    odd = "no-pattern-knows-this-one"
    monkeypatch.setenv("SOME_SERVICE_TOKEN", odd)
    monkeypatch.setattr(sys, "argv", ["/bin/tastemaker", "dpo", "--hub-token", f"hf_{CANARY}", "--note", odd])
    leak = " ".join([*LEAKS, odd])
    run = Run.create(
        tmp_path / "run",
        method="dpo",
        settings={"note": leak, "judge": {"api_key": CANARY}, leak: 1},
        seed=0,
        parents=[Parent(role="policy", path=f"https://me:{CANARY}@hub/model", weights_hash="0")],
        data=[Source(source=f"s3://key:{CANARY}@bucket/x", sha256="0", rows=1)],
    )
    run.log_metrics(1, {"loss": torch.tensor(0.5), "note": leak})
    run.log_samples(1, [{"response": leak}])
    run.write_receipt({"first": [leak]})
    run.update(status="failed", reason=leak, hashes={"weights": "ab"})
    run.resume(0, settings={"note": "other"}, force=True)
    written = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert len(written) == 4
    for path in written:
        content = path.read_bytes()
        assert CANARY.encode() not in content, path.name
        assert odd.encode() not in content, path.name
