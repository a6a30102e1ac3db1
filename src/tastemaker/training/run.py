"""One training run from inputs to a folder with the result: what `tastemaker dpo` and `train()` do."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from tastemaker.config import TrainSettings, dump, settings_from
from tastemaker.data import ChatTemplate, Dataset, Tokenised, enforce, tokenise
from tastemaker.models import LoraSettings, RoleModels, build_roles
from tastemaker.rollout import LocalGenerator, RetryingGenerator
from tastemaker.runs import Meter, Parent, Run, RunLock, Source, default_name
from tastemaker.training import checkpoint
from tastemaker.training.contract import check_reference
from tastemaker.training.distributed import World
from tastemaker.training.gold_peak import GoldWatch, watch_of
from tastemaker.training.held_out import held_out_metrics
from tastemaker.training.interrupt import Interrupted, Interruption
from tastemaker.training.judging import judged_reward
from tastemaker.training.keeping import ENDED, Keeper
from tastemaker.training.loop import Step, fit
from tastemaker.training.optim import make_optimizer
from tastemaker.training.precompute import reference_logps
from tastemaker.training.reading import check_kind, data_of, model_of, read_for
from tastemaker.training.rehearsal import TINY, starting_model
from tastemaker.training.rewarding import RunReward, centre_value, keep_normalisation, load_judge
from tastemaker.training.samples import UNLIMITED, Listener, sample_lines
from tastemaker.training.source import BatchSource
from tastemaker.types import Bundles, Method, Reward, Role, TastemakerError

log = logging.getLogger(__name__)

Progress = Callable[[int, int, Mapping[str, float]], None]
"""(step, of how many, its metrics)"""


def train(
    method: Method,
    *,
    model: object,
    data: object,
    out: str | Path | None = None,
    reward: object = None,
    eval_data: object = None,
    settings: TrainSettings | None = None,
    progress: Progress | None = None,
    **options: object,
) -> Run:
    """Trains `model` by `method` on `data` and returns the run.

    Args:
        method: what to optimise, e.g. `DPO(beta=0.1)`.
        model: a Hugging Face folder or name, a run or its folder, or `(model, tokenizer)` in memory, or "tiny"
            (a small model made from the data, to rehearse). The
            reference is a copy of these very weights, never reloaded by name.
        data: a file, a folder saved by `datasets`, a hub name, a list of records or dicts, a `Tokenised`, or a
            run that sampled.
        out: the run's folder; `runs/<name>` by default. A folder that holds an unfinished run of the same
            inputs is resumed exactly, a finished one is returned as it is.
        reward: for online methods: a reward run, folder or name; the name of a reward that checks ("maths",
            "format:REGEX", "code", ...); "file.py:function"; a `types.Reward`; a function
            `f(prompts, completions, **columns) -> list of numbers` as TRL has them; or a list of these, or of
            mappings with weights and constraints (docs/rewards.md).
        eval_data: held-out data of the same kind; its loss and metrics are recorded as `eval_*` at the end.
            With `stop_at_gold_peak` also the prompts on which the `gold` is read.
        settings: how to train; or give single settings as keywords, under TRL's names too.
        progress: called after every step.
        **options: single settings, under our names or TRL's.

    Raises:
        TastemakerError: with what is wrong with the inputs, and how to mend it.
        Interrupted: on SIGINT or SIGTERM, after saving; the same call goes on from there.
    """
    if settings is None:
        given = {k: str(v.folder) if isinstance(v, Run) else v for k, v in options.items()}
        settings = settings_from(TrainSettings, {**method.defaults, **given}, origin="train")
    elif options:
        raise TastemakerError(
            f"settings are given whole and also one by one ({', '.join(options)}); give either"
        )
    world = World.from_environment(device_of(settings))
    folder = world.gather(Path(out) if out is not None else Path("runs") / default_name(method.name))[0]
    lock = RunLock(folder) if world.main else nullcontext()
    with lock:
        # A method may carry state (an adaptive coefficient): every run starts with its own, as set.
        if model == TINY:
            model = starting_model(TINY, data, method.consumes, settings.seed)
        method = cast(Method, replace(cast(Any, method)))
        job = Job(method, settings, Keeper(method, settings, folder, world), progress)
        return job.run(model_of(model), data_of(data), model_of(reward), data_of(eval_data))


def device_of(settings: TrainSettings) -> torch.device:
    """The device the settings name; `auto` takes this process's GPU where there is one."""
    if settings.device != "auto":
        return torch.device(settings.device)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@dataclass
class Job:
    """The steps of one run, in order."""

    method: Method
    settings: TrainSettings
    keeper: Keeper
    progress: Progress | None = None
    reward: RunReward | None = None
    """What scores the rollouts, if the method was given one."""
    listener: Listener = field(default_factory=Listener)
    """Who hears what the reward says of rollouts."""

    def run(self, model: object, data: object, reward: object, eval_data: object) -> Run:
        kind = self.method.consumes
        dataset = check_kind(kind, data) if isinstance(data, Dataset | Tokenised) else self.read(data)
        held_out_data = self.read(eval_data) if eval_data is not None and not self.method.online else None
        models, scorer = self.load(model, reward)
        parents = self.parents(models)
        if self.settings.stop_at_gold_peak:
            self.keeper.watch = self.gold_watch(models, dataset, eval_data)
            parents += self.keeper.watch.parents
        name = dataset.receipt.source if isinstance(dataset, Tokenised) else dataset.source
        sources = [Source(source=name, sha256=dataset.sha256, rows=len(dataset.records))]
        run, saved = self.keeper.open(parents, sources)
        if run is not None and run.status in ENDED:
            log.info("%s: finished before with the same inputs; nothing to do", self.keeper.folder)
            return run
        meter = Meter(run.record.resources if run is not None else None, model_copies=models.model_copies())
        with self.keeper.recorded(run):
            whole = isinstance(dataset, Tokenised)
            tokenised = dataset if whole else self.tokenise(dataset, models, held_out_data)
            models.stop_at(tokenised.end_token_ids)
            log.info("%s", tokenised.receipt.summary())
            if run is not None:
                run.write_receipt(tokenised.receipt.to_json())
            enforce(tokenised.receipt, dump(self.settings))
            self.optimise(models, tokenised, scorer, run, saved, meter, keep=held_out_data is not None)
            kept = self.keeper.put_back(models)
            held_out = self.evaluate(models, held_out_data)
            if run is not None:
                self.finish(run, models, tokenised, held_out, meter, kept)
        self.keeper.world.barrier()
        return Run.open(self.keeper.folder)

    # ---------------------------------------------------------------------------------------- inputs

    def read(self, data: object) -> Dataset:
        return read_for(self.method.consumes, data, max_bad=self.settings.max_bad)

    def load(self, model: object, reward: object) -> tuple[RoleModels, Reward | None]:
        """The roles the method needs, and what scores its rollouts."""
        settings = self.settings
        needs_reward = "reward" in self.method.roles and "reward" not in self.method.trains
        if needs_reward and reward is None:
            raise TastemakerError(
                f"{self.method.name} needs a reward: train one (`tastemaker reward --model ... --data ...`) "
                "and name it with --reward, or name one that checks: maths, exact_match, format:REGEX, code, "
                "file.py:function, or judge:WHO; from Python a reward function will do too"
            )
        if needs_reward:
            self.reward = RunReward.read(reward, model, trust_remote_code=settings.trust_remote_code)
        own = None if self.reward is None else self.reward.model
        if settings.precompute_ref_log_probs and "moving_reference" in self.method.model_options():
            raise TastemakerError("precompute_ref_log_probs: sync_ref_model moves the reference; leave one out")
        roles: tuple[Role, ...] = tuple(
            r for r in self.method.roles if not (r == "reward" and needs_reward and own is None)
        )
        lora = LoraSettings(
            r=settings.lora_r,
            alpha=settings.lora_alpha,
            dropout=settings.lora_dropout,
            target_modules=settings.lora_target_modules or "all-linear",
        )
        models = build_roles(
            roles,
            self.method.trains,
            policy=cast(Any, model),
            reference=settings.ref_model,
            reward=cast(Any, own),
            lora=lora if settings.use_peft else None,
            dtype=settings.dtype,
            frozen_dtype=settings.frozen_dtype,
            four_bits=settings.load_in_4bit,
            offload=self.keeper.folder if settings.offload_frozen else None,
            device=device_of(settings),
            seed=settings.seed,
            attention=settings.attention,
            token_budget=settings.tokens_per_microbatch,
            gradient_checkpointing=settings.gradient_checkpointing,
            trust_remote_code=settings.trust_remote_code,
            **cast(Any, self.method.model_options()),
        )
        if own is not None:
            centre_value(models, own)
        for note in models.notes:
            log.info("%s", note)
        if self.reward is None:
            return models, None
        load = partial(load_judge, settings=settings, device=device_of(settings), offload=self.keeper.folder)
        world, folder = self.keeper.world, self.keeper.folder
        ask = partial(judged_reward, folder=folder, rank=world.rank, seed=settings.seed)
        return models, self.reward.build(models, load, world, ask)

    def parents(self, models: RoleModels) -> list[Parent]:
        """Every model that went in, by the hash of its weights before training, and every reward."""
        parents = [
            Parent(role=role, path=source.location or "in memory", weights_hash=source.weights_hash)
            for role in models.roles
            if role not in ("value", "reward") or (role == "reward" and self.reward is None)
            for source in [models.slot(role).source]
        ]
        return parents if self.reward is None else [*parents, *self.reward.parents(models)]

    def gold_watch(self, models: RoleModels, data: Dataset | Tokenised, eval_data: object) -> GoldWatch:
        """What reads the gold while the policy trains."""
        folder = self.keeper.folder
        load = partial(load_judge, settings=self.settings, device=device_of(self.settings), offload=folder)
        rewards = [] if self.reward is None else self.reward.parents(models)
        return watch_of(self.method, self.settings, models, data, eval_data, load, folder, rewards)

    def tokenise(self, dataset: Dataset, models: RoleModels, held_out: Dataset | None = None) -> Tokenised:
        settings = self.settings
        has_reward = "reward" in models.roles and "reward" not in self.method.trains
        tokenised = tokenise(
            dataset,
            models.tokenizer,
            max_length=settings.max_length or UNLIMITED,
            max_prompt_length=settings.max_prompt_length,
            truncation_mode=settings.truncation_mode,
            chat_template=settings.chat_template,
            held_out=held_out,
            reward_tokenizer=models.slot("reward").source.tokenizer if has_reward else None,
            keep_ties=self.method.knows_ties,
            objectives=getattr(self.method, "objectives", ()),
        )
        weighted = any(columns.get("weight", 1.0) != 1.0 for columns in tokenised.tree_columns)
        if weighted and not getattr(self.method, "knows_weights", False):
            raise TastemakerError(
                f"{dataset.source}: its labels have weights, for which {self.method.name} has no place with "
                "these settings. Leave the column 'weight' out, or take reward, dpo, kto or bco."
            )
        if settings.chat_template is not None:  # who goes on from this run must write chats the same way
            models.tokenizer.chat_template = ChatTemplate(models.tokenizer, settings.chat_template).source
        return tokenised

    # ---------------------------------------------------------------------------------------- training

    def optimise(
        self,
        models: RoleModels,
        tokenised: Tokenised,
        reward: Reward | None,
        run: Run | None,
        saved: checkpoint.Checkpoint | None,
        meter: Meter,
        *,
        keep: bool,
    ) -> None:
        """Takes the steps. `keep`: the reference is needed again afterwards."""
        method, settings = self.method, self.settings
        folder, world = self.keeper.folder, self.keeper.world
        parameters = {name: p for role in method.trains for name, p in models.trainable(role).items()}
        learning_rate = settings.learning_rate
        if learning_rate is None:
            learning_rate = float(cast(float, method.defaults["learning_rate"]))
        optimizer = make_optimizer(parameters, settings, learning_rate)
        torch.manual_seed(settings.seed)
        self.keeper.reward = reward
        start = self.keeper.restore(models, optimizer, parameters, saved) if saved else 0
        source = BatchSource(tokenised, settings, world, start)
        if settings.precompute_ref_log_probs and "reference" in models.roles and not method.online:
            source.columns["reference_logps"] = reference_logps(models, tokenised, folder, world)
        if "reference_logps" in source.columns and not keep:
            models.release("reference")
        engine = LocalGenerator(models, models.tokenizer)
        generator = RetryingGenerator(engine) if method.online else None
        steps = fit(
            method,
            models,
            source,
            optimizer=optimizer,
            settings=settings,
            learning_rate=learning_rate,
            total_steps=source.total,
            counters=self.keeper.counters,
            world=world,
            generator=generator,
            reward=reward,
            first=partial(self.check_contract, models) if start == 0 else None,
            overhear=self.listener.to,
        )
        if self.keeper.notes:  # a checkpoint of a run that its method ended: nothing is left to do
            return
        watch = self.keeper.watch
        if watch is not None:
            watch.sample_as(method, tokenised, models)
            if watch.due(0, source.total) and start == 0:
                watch.read(0, models, reward, world)
        with Interruption() as interruption:
            for step in steps:
                if watch is not None and (step.stop is not None or watch.due(step.number, source.total)):
                    step.metrics |= watch.read(step.number, models, reward, world)
                    step.stop = step.stop or watch.stop()
                last = step.number >= source.total or step.stop is not None
                if run is not None:
                    self.record(run, step, source.total, last, models)
                every = self.steps_between_snapshots(source.total)
                if run is not None and every and step.number % every == 0:
                    models.save(method.trains[0], run.snapshot_dir(step.number), overwrite=True)
                stopping = any(world.gather(interruption.asked))
                if run is not None and (stopping or last or step.number % settings.save_steps == 0):
                    self.keeper.save(run, models, optimizer, parameters, step.number, meter)
                if stopping and not last:
                    raise Interrupted(
                        f"{folder}: interrupted after step {step.number}; the same command continues"
                    )
                if last:
                    break

    def steps_between_snapshots(self, total: int) -> int:
        """0: none are kept."""
        every = self.settings.snapshot_steps or 0
        return max(1, round(every * total)) if 0 < every < 1 else int(every)

    def check_contract(self, models: RoleModels, batch: Bundles) -> None:
        """Before step 1: the reference is the starting policy, unless another was named."""
        if "reference" not in self.method.roles or not models.reference_is_start:
            return
        exact = models.exact("reference")
        check_reference(models, batch, temperature=self.method.scoring_temperature, exact=exact)

    def record(self, run: Run, step: Step, total: int, last: bool, models: RoleModels) -> None:
        every = self.settings.log_completions_steps
        if every and step.number % every == 0:
            run.log_samples(step.number, self.listener.lines(models))
        self.listener.warn(step.number, step.metrics, getattr(self.method, "response_length", "their last"))
        if last or step.number % self.settings.logging_steps == 0 or "gold/score" in step.metrics:
            run.log_metrics(step.number, step.metrics)
        if self.progress is not None:
            self.progress(step.number, total, step.metrics)
        if step.stop is not None:
            self.keeper.notes.append(step.stop)

    # ---------------------------------------------------------------------------------------- the end

    def evaluate(self, models: RoleModels, held_out: Dataset | None) -> dict[str, float]:
        """Loss and metrics on held-out data, under TRL's names with `eval_` before them."""
        if held_out is None:
            return {}
        tokenised = self.tokenise(held_out, models)
        return held_out_metrics(self.method, models, tokenised, self.settings, self.keeper.world)

    def finish(
        self,
        run: Run,
        models: RoleModels,
        tokenised: Tokenised,
        held_out: dict[str, float],
        meter: Meter,
        kept: str | None,
    ) -> None:
        trained = self.method.trains[0]
        if held_out:
            metrics = run.metrics()
            run.log_metrics(cast(int, metrics[-1]["step"]) if metrics else 0, held_out)
        if trained == "policy" and self.settings.num_samples:
            lines = sample_lines(
                models,
                tokenised,
                self.method,
                number=self.settings.num_samples,
                seed=self.settings.seed,
            )
            run.log_samples(0, lines)
        models.save(trained, run.model_dir, overwrite=True)
        if trained == "reward":
            keep_normalisation(models, tokenised, run.model_dir)
        status = "stopped" if self.keeper.notes else "finished"
        run.update(
            status=status,
            reason="; ".join([*self.keeper.notes, *([kept] if kept else ())]) or None,
            hashes={"weights": models.weights_hash(trained)},
            resources=self.keeper.spent(meter),
        )
        if self.keeper.watch is not None:
            self.keeper.watch.tidy()
