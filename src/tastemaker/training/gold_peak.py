"""`stop_at_gold_peak`: a gold that the run does not maximise is read every few steps on held-out prompts, and
the policy of its highest reading is what the run keeps.

All readings answer the same prompts with the same random numbers, so that they differ by the policy alone. The
highest of several noisy readings is too high on average, the more so the more of them lie near each other:
`gold.json` says so. What the kept policy is worth, `tastemaker evaluate` says on other prompts.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from tastemaker.config import TrainSettings
from tastemaker.data import Dataset, Tokenised, prompt_key
from tastemaker.errors import TastemakerError
from tastemaker.functional import kl_estimate
from tastemaker.models import RoleModels
from tastemaker.rollout import LocalGenerator
from tastemaker.runs import Parent, Run, plain
from tastemaker.runs.files import write_atomic
from tastemaker.runs.lines import read_object, to_line
from tastemaker.training import checkpoint
from tastemaker.training.distributed import World
from tastemaker.training.golds import LABELS, Gold, gold_of, held_out_prompts, tokenised
from tastemaker.training.loop import step_seed
from tastemaker.training.rewarding import LoadJudge
from tastemaker.training.samples import without_responses
from tastemaker.types import Bundles, Method, Record, Reward, Sampling, StatefulReward

log = logging.getLogger(__name__)

GOLD_PROMPTS = "gold_prompts"
"""The role of the prompts among a run's parents."""
Reading = dict[str, Any]
"""step; gold, proxy, kl and length, each a mean over prompts, with its standard error as `..._se`; values, the
gold by prompt.
"""


@dataclass
class GoldWatch:
    """The readings of one run so far, and what takes them."""

    gold: Gold
    settings: TrainSettings
    held_out: Tokenised
    source: str
    folder: Path
    parents: list[Parent]
    sampling: Sampling = field(default_factory=Sampling)
    readings: list[Reading] = field(default_factory=list[Reading])

    @property
    def peak(self) -> Reading:
        """The highest reading, the earliest of equals."""
        return max(self.readings, key=lambda r: (r["gold"], -r["step"]))

    def sample_as(self, method: Method, learned: Tokenised, models: RoleModels) -> None:
        """Answers may be as long as those that the method samples, or the longest that it learns from."""
        longest = max((len(r) for t in learned.trees for r in t.responses), default=1)
        room = (models.max_positions or 2**31) - max(len(t.prompt) for t in self.held_out.trees)
        wanted = int(getattr(method, "response_length", longest))
        self.sampling = Sampling(max_new_tokens=max(1, min(room, wanted)))

    def due(self, step: int, total: int) -> bool:
        """Whether the policy is read after this step: at the start, every `gold_steps`, and at the end."""
        if any(r["step"] == step for r in self.readings):
            return False
        every = self.settings.gold_steps
        return step % (max(1, round(every * total)) if every < 1 else int(every)) == 0 or step >= total

    def read(self, step: int, models: RoleModels, reward: Reward | None, world: World) -> dict[str, float]:
        """Reads the policy as it is now, and keeps it where nothing was higher; metrics for the log.

        One process reads, so that all decide alike. Raises TastemakerError where the gold says nothing.
        """
        found = self._reading(step, models, reward) if world.main else None
        found = world.gather((found, self.gold.start))[0] if world.size > 1 else (found, self.gold.start)
        reading, self.gold.start = cast(Any, found)
        self.readings.append(reading)
        if self.peak is reading and world.main:
            checkpoint.save(self._kept, step, {"weights": models.state()}, {}, keep_last=None)
        if world.main:
            self.write()
        names = ("gold", "gold_se", "proxy", "kl")
        return {f"gold/{n.replace('gold', 'score')}": reading[n] for n in names if reading.get(n) is not None}

    def stop(self) -> str | None:
        """Why the run may end now, if it may."""
        patience, peak = self.settings.gold_patience, self.peak
        after = sum(r["step"] > peak["step"] for r in self.readings)
        if not patience or after < patience:
            return None
        return f"{after} readings of the gold ({self.gold.name}) in a row were not above that of {_at(peak)}"

    def put_back(self, models: RoleModels) -> str:
        """Gives the models the weights of the peak, and says so."""
        peak, last = self.peak, self.readings[-1]
        if peak is not last:
            models.load_state(checkpoint.load(self._kept, peak["step"]).tensors("weights"))
        error = "" if peak["gold_se"] is None else f" ± {peak['gold_se']:.4g}"
        return (
            f"kept the policy of {_at(peak)}: of {len(self.readings)} readings of the gold ({self.gold.name}) "
            f"on {len(peak['values'])} held-out prompts its was the highest ({peak['gold']:.4g}{error}), which "
            "is too high on average"
        )

    def tidy(self) -> None:
        """Removes the copies of weights once the run has its model."""
        shutil.rmtree(self._kept, ignore_errors=True)

    def state(self) -> dict[str, object]:
        return {"readings": self.readings, "start": self.gold.start}

    def load_state(self, state: dict[str, Any]) -> None:
        self.readings, self.gold.start = list(state["readings"]), list(state["start"])

    def write(self) -> None:
        """gold.json: every reading, the peak, and how it was chosen."""
        content: dict[str, object] = {
            "gold": self.gold.name,
            "prompts": self.source,
            "number": len(self.held_out),
            "labels": self.settings.gold == LABELS,
            "peak": self.peak["step"],
            "patience": self.settings.gold_patience,
            "chosen_on": "these readings themselves, so that the peak's own is too high on average",
            "readings": [{k: _known(v) for k, v in r.items()} for r in self.readings],
        }
        write_atomic(self.folder / "gold.json", to_line(cast(Any, plain(content, "gold"))))

    # ---------------------------------------------------------------------------------------- private

    @property
    def _kept(self) -> Path:
        return self.folder / "gold" / "kept"

    def _reading(self, step: int, models: RoleModels, reward: Reward | None) -> Reading:
        proxied = reward is not None and not isinstance(reward, StatefulReward)
        found: Reading = {"step": step}
        answers, texts = None, list[str]()
        if self.gold.reads_answers or proxied:
            answers = self._answers(models)
            texts = [
                str(models.tokenizer.decode(ids[: len(ids) - ended].tolist(), skip_special_tokens=True))
                for tree in answers.trees
                for ids, ended in zip(tree.responses, tree.ended, strict=True)
            ]
            found |= _mean("length", answers.lengths.tolist())
        if answers is not None and reward is not None and proxied:
            found |= _mean("proxy", reward(answers, self.held_out.records).total.tolist())
        if answers is not None and "reference" in models.roles:
            ours, theirs = models.score("policy", answers).logps, models.score("reference", answers).logps
            assert ours is not None and theirs is not None
            found |= _mean("kl", answers.sum_by_response(kl_estimate(ours, theirs, "k1")).tolist())
        with torch.no_grad():
            values = self.gold(models, answers, texts)
        found |= _mean("gold", values) | {"values": values}
        if not math.isfinite(found["gold"]):
            raise TastemakerError(
                f"gold {self.settings.gold}: it says nothing of any of {len(values)} answers at step {step}; "
                "look whether it fits these prompts."
            )
        return found

    def _answers(self, models: RoleModels) -> Bundles:
        prompts = without_responses(self.held_out.batch(range(len(self.held_out))))
        seed = step_seed(self.settings.seed, -2)
        drawn = LocalGenerator(models, models.tokenizer).generate(prompts, self.sampling, seed=seed)
        drawn = drawn.to(models.device)
        models.count_rollouts(drawn)
        return drawn


def watch_of(
    method: Method,
    settings: TrainSettings,
    models: RoleModels,
    data: Dataset | Tokenised,
    eval_data: object,
    load: LoadJudge,
    folder: Path,
    rewards: Sequence[Parent],
) -> GoldWatch:
    """What reads the gold of a run whose own rewards are `rewards`.

    Raises TastemakerError for a method that trains no policy, a gold that the run maximises, or held-out
    prompts that are among the training data.
    """
    if method.trains[0] != "policy":
        raise TastemakerError(f"stop_at_gold_peak: {method.name} trains no policy; leave it out.")
    found = held_out_prompts(settings, eval_data)
    known = {prompt_key(r) for r in data.records}
    leaked = sum(prompt_key(r) in known for r in found.records)
    if leaked:
        raise TastemakerError(
            f"{found.source}: {leaked} of {len(found.records)} prompts are among the training data, so that a "
            "gold read on them is not held out. Leave them out of one of the two."
        )
    held_out = tokenised(settings, models, chosen(found.records, settings))
    gold, parts = gold_of(settings, models, held_out, load, folder)
    own = {p.weights_hash for p in rewards if p.weights_hash}
    if any(hash_ in own for _, hash_ in parts):
        raise TastemakerError(
            f"gold {settings.gold}: it is the reward that the run maximises, which cannot say where it goes "
            "wrong. Name another: a reward model of other pairs, a judge, or labels."
        )
    parents = [Parent(role="gold", path=path, weights_hash=hash_) for path, hash_ in parts]
    parents.append(Parent(role=GOLD_PROMPTS, path=found.source, weights_hash=found.sha256))
    return GoldWatch(gold, settings, held_out, found.source, folder, parents)


def chosen(records: Sequence[Record], settings: TrainSettings) -> list[Record]:
    """`gold_prompts` of the prompts, each once, by the seed."""
    once = list({prompt_key(r): r for r in reversed(records)}.values())[::-1]
    order = torch.randperm(len(once), generator=torch.Generator().manual_seed(settings.seed)).tolist()
    return [once[i] for i in sorted(order[: settings.gold_prompts])]


def kept_step(run: Run) -> int | None:
    """The step whose policy is the run's model, where a gold chose it; None: the last."""
    file = run.folder / "gold.json"
    return int(read_gold(run)["peak"]) if file.is_file() else None


def read_gold(run: Run) -> dict[str, Any]:
    """gold.json. Raises TastemakerError where the run has none."""
    return read_object(run.folder / "gold.json")


def _at(reading: Reading) -> str:
    return f"step {reading['step']}" if reading["step"] else "the start"


def _mean(name: str, values: Sequence[float]) -> Reading:
    kept = [v for v in values if math.isfinite(v)]
    n = len(kept)
    if not n:
        return {name: math.nan, f"{name}_se": None}
    mean = sum(kept) / n
    spread = math.sqrt(sum((v - mean) ** 2 for v in kept) / (n - 1) / n) if n > 1 else None
    return {name: mean, f"{name}_se": spread}


def _known(value: object) -> object:
    """JSON has no NaN."""
    if isinstance(value, list):
        return [_known(v) for v in cast("list[object]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value
