"""Where the processor's time of ours goes, by kind of operation: one table line for each task and size.

    python benchmarks/where.py reward:small reward:large ppo:small dpo:large

Every line is two processes of the same steps: one undisturbed, whose time is the whole, and one in which every
operation's own time is read. What operations do not account for is Python, autograd and their calls. On a busy
machine the two differ by several percent: take the shares as that good.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import BUILD, TASKS, steps_of
from report import cells
from runner import measure, prepare

KINDS = {
    "products": ("mm", "addmm", "mkldnn::_linear_pointwise", "_linear_pointwise"),
    "attention": (
        "bmm",
        "baddbmm",
        "_softmax",
        "_softmax_backward_data",
        "_scaled_dot_product_flash_attention_for_cpu",
    ),
    "moving and converting": (
        "_to_copy",
        "copy_",
        "clone",
        "index_select",
        "index_add",
        "index_add_",
        "index_copy",
        "index_put_",
        "cat",
        "fill_",
        "zeros_like",
        "zeros",
        "constant_pad_nd",
        "slice_backward",
        "select_backward",
        "gather",
        "scatter_add_",
        "embedding",
        "embedding_dense_backward",
    ),
    "optimiser": ("_fused_adamw_", "_foreach_norm", "_foreach_mul_", "_foreach_add_", "stack"),
}
OTHERS = "gates, norms, loss, sampling"
CALLS = "Python and calls"
FREE = "view slice transpose t expand unsqueeze squeeze as_strided split select detach empty new_empty"
"""Operations that compute nothing: what they take is the call."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", nargs="+", help="task:size")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--prepared", type=Path, default=BUILD / "bench")
    args = parser.parse_args()
    args.steps = None
    heads = ["work", "model", *KINDS, OTHERS, CALLS]
    print(cells(heads) + cells(["---"] * len(heads)), end="", flush=True)
    for line in args.lines:
        task, _, size = line.partition(":")
        one = {"task": task, "size": size, "dtype": args.dtype, "adapter": TASKS[task].adapter, "round": 0}
        prepare([one], args, "cpu")
        found = split(
            {**one, "steps": steps_of(task, size), "system": "tastemaker", "variant": "default"}, args
        )
        print(cells([task, size, *(f"{share:.0%}" for share in found.values())]), end="", flush=True)


def split(one: dict[str, Any], args: argparse.Namespace) -> dict[str, float]:
    """Share of the undisturbed time of each kind."""
    path = (args.prepared / "operations.json").resolve()
    plain = measure(one, args.prepared, "cpu")
    measure({**one, "profile": str(path)}, args.prepared, "cpu")
    seconds = dict.fromkeys([*KINDS, OTHERS, CALLS], 0.0)
    for name, (spent, _calls) in json.loads(path.read_text()).items():
        kind = next((kind for kind, names in KINDS.items() if name in names), OTHERS)
        seconds[CALLS if name in FREE.split() else kind] += spent
    path.unlink()
    # the two differ by noise, and by what reading the time takes
    whole = max(plain["cpu_per_unit"] * plain["units"], sum(seconds.values()))
    seconds[CALLS] += whole - sum(seconds.values())
    return {kind: spent / whole for kind, spent in seconds.items()}


if __name__ == "__main__":
    main()
