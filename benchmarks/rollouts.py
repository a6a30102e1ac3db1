"""Rollouts against Hugging Face `generate`, same weights, dtype, prompts and temperature, interleaved.

    OMP_NUM_THREADS=1 python benchmarks/rollouts.py --case small --dtype float32 --rounds 5

Unit: response tokens per process CPU second at one thread, medians over rounds. `generate` is given left-padded
prompts, `num_return_sequences`, SDPA and its dynamic cache (--static: its static cache too, and the better of
the two counts); it returns tokens alone, we return log-probabilities too. Models are random. So that responses
end as a trained policy's do (after about 35 of 64 tokens, or 13 of 48 in the town), many tokens end a
response. A folder given by --model takes the place of the random model, with its own end token.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from common import TASKS, Clock, arguments
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tastemaker.models.attention import IMPLEMENTATION
from tastemaker.rollout import LocalGenerator
from tastemaker.types import Bundles, Sampling, Tree


@dataclass(frozen=True)
class Case:
    """A model size and what it is asked for."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    prompts: int
    samples: int
    new_tokens: int
    shortest: int
    longest: int
    mean_response: float
    """Expected tokens before an end token, were there no limit."""


CASES = {
    "tiny": Case(64, 2, 2, 160, 512, 2, 4, 8, 9, 16, 8.0),
    "town": Case(128, 2, 4, 320, 162, 64, 1, 48, 9, 32, 13.0),
    "small": Case(256, 5, 4, 704, 4096, 4, 8, 64, 60, 180, 50.0),
    "large": Case(512, 8, 8, 1408, 32000, 4, 8, 64, 60, 180, 50.0),
}


class Holder:
    """What a generator asks for a model."""

    def __init__(self, model: torch.nn.Module):
        self.model = model

    def generation_model(self, role: str) -> tuple[torch.nn.Module, AbstractContextManager[None]]:
        return self.model, nullcontext()


def build(case: Case, dtype: torch.dtype, folder: str | None) -> Any:
    """The model, in its own attention."""
    torch.manual_seed(0)
    if folder is not None:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    config = LlamaConfig(
        vocab_size=case.vocabulary,
        hidden_size=case.hidden,
        intermediate_size=case.intermediate,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        num_key_value_heads=case.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model: Any = LlamaForCausalLM(config).to(dtype).eval()
    ends = max(1, round(case.vocabulary / case.mean_response))
    model.generation_config.eos_token_id = list(range(2, 2 + ends))
    return model


def prompts_of(case: Case, seed: int, vocabulary: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    span = case.longest - case.shortest + 1
    lengths = (torch.randint(0, span, (case.prompts,), generator=generator) + case.shortest).tolist()
    return [torch.randint(3, vocabulary, (length,), generator=generator) for length in lengths]


def theirs(model: Any, case: Case, prompts: list[torch.Tensor], cache: str | None) -> int:
    """Response tokens that `generate` wrote, end tokens included."""
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, longest - len(prompt) :], mask[i, longest - len(prompt) :] = prompt, 1
    ends = model.generation_config.eos_token_id
    more = {} if cache is None else {"cache_implementation": cache}
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            num_return_sequences=case.samples,
            max_new_tokens=case.new_tokens,
            pad_token_id=0,
            **more,
        )
    new = out[:, longest:]
    over = torch.isin(new, torch.tensor(ends))
    lengths = torch.where(over.any(1), over.int().argmax(1) + 1, new.shape[1])
    return int(lengths.sum())


def ours(generator: LocalGenerator, case: Case, prompts: list[torch.Tensor], seed: int) -> int:
    trees = Bundles(tuple(Tree(prompt, row=i) for i, prompt in enumerate(prompts)))
    sampling = Sampling(max_new_tokens=case.new_tokens, n=case.samples)
    return int(generator.generate(trees, sampling, seed=seed).lengths.sum())


def measure(case: Case, dtype: torch.dtype, *, rounds: int, folder: str | None, static: bool) -> dict[str, Any]:
    """Tokens per CPU second of each engine, by round, interleaved."""
    stock, held = build(case, dtype, folder), build(case, dtype, folder)
    held.set_attn_implementation(IMPLEMENTATION)
    generator = LocalGenerator(Holder(held))
    vocabulary = stock.config.vocab_size
    engines: dict[str, Callable[[list[torch.Tensor], int], int]] = {
        "generate": lambda prompts, seed: theirs(stock, case, prompts, None),
        "ours": lambda prompts, seed: ours(generator, case, prompts, seed),
    }
    if static:
        engines["generate, static cache"] = lambda prompts, seed: theirs(stock, case, prompts, "static")
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(rounds + 1):
        prompts = prompts_of(case, turn, vocabulary)
        for name, engine in engines.items():
            start = time.process_time()
            tokens = engine(prompts, turn)
            if turn:  # the first round warms up
                rates[name].append(tokens / (time.process_time() - start))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = max(value for name, value in medians.items() if name != "ours")
    return {"rates": rates, "medians": medians, "ratio": medians["ours"] / best}


def one_engine() -> None:
    """One process of `bench.py`: one engine, and the line of JSON that every measured process prints.

    `best` of the peer is its static cache. Prompts and draws are those of the seed, the round's number.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--system", required=True, choices=["tastemaker", "generate"])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--group", type=int, help="samples a prompt, in place of the case's own")
    args = arguments(parser)
    if args.device == "cpu":
        torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    case = CASES[args.size]
    if args.group:
        case = replace(case, samples=args.group)
    model = build(case, getattr(torch, args.dtype), None)
    if args.system == "tastemaker":
        model.set_attn_implementation(IMPLEMENTATION)
    generator = LocalGenerator(Holder(model))
    clock = Clock(TASKS["rollouts"].warmup, args.profile, args.device, args.steps)
    for turn in range(TASKS["rollouts"].warmup + args.steps):
        seed = 1000 * args.seed + turn
        torch.manual_seed(seed)
        prompts = prompts_of(case, seed, model.config.vocab_size)
        if args.system == "tastemaker":
            clock.tick(ours(generator, case, prompts, seed))
        else:
            clock.tick(theirs(model, case, prompts, "static" if args.variant == "best" else None))
    clock.report(args.steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", help="a Hugging Face folder in place of the random model")
    parser.add_argument("--static", action="store_true", help="the static cache of generate as well")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    found: list[dict[str, Any]] = []
    for name in args.case or list(CASES):
        for dtype in args.dtype or ["float32", "bfloat16"]:
            result = measure(
                CASES[name],
                getattr(torch, dtype),
                rounds=args.rounds,
                folder=args.model,
                static=args.static,
            )
            found.append({"case": name, "dtype": dtype, **asdict(CASES[name]), **result})
            medians = ", ".join(f"{engine} {rate:,.0f}" for engine, rate in result["medians"].items())
            print(
                f"{name:6} {dtype:9} tokens per CPU second: {medians}; ratio {result['ratio']:.2f}", flush=True
            )
    if args.out is not None:
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        args.out.write_text(json.dumps({"versions": versions, "results": found}, indent=1) + "\n")


if __name__ == "__main__":
    if "--system" in sys.argv:
        one_engine()
    else:
        main()
