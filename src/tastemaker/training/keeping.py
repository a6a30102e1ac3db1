"""A run's folder while it trains: made or taken up again, its checkpoints written and read back."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from tastemaker.config import TrainSettings, dump
from tastemaker.models import RoleModels
from tastemaker.runs import Meter, Parent, Resources, Run, Source
from tastemaker.training import checkpoint
from tastemaker.training.distributed import World
from tastemaker.training.gold_peak import GoldWatch
from tastemaker.training.interrupt import Interrupted
from tastemaker.training.loop import Counters
from tastemaker.types import Method, Reward, StatefulReward, TastemakerError

log = logging.getLogger(__name__)

ENDED = ("finished", "stopped")
WITHOUT_EFFECT = (
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "resume",
    "force",
    "log_level",
    "num_samples",
    "log_completions_steps",
    "snapshot_steps",
    "offload_frozen",
    "max_dropped",
    "max_truncated",
    "max_lost_eos",
    "max_duplicates",
    "max_contradictory",
    "max_leaked",
)
"""Settings that may differ when a run is resumed: they change no weight."""


@dataclass
class Keeper:
    """What of a run lies on disk, and what of its state must go there."""

    method: Method
    settings: TrainSettings
    folder: Path
    world: World
    counters: Counters = field(default_factory=Counters)
    notes: list[str] = field(default_factory=list[str])
    """Why the method ended the run before its last step."""
    reward: Reward | None = None
    """What scores the rollouts; one that has a state is saved with the run."""
    watch: GoldWatch | None = None
    """What reads the gold, if there is one."""

    def open(
        self, parents: list[Parent], sources: list[Source]
    ) -> tuple[Run | None, checkpoint.Checkpoint | None]:
        """The run's record, new or taken up again, and where it was taken up. Only one process writes it."""
        inputs = {**dump(self.method), **dump(self.settings)}
        settings, force = self.settings, self.settings.force
        saved: checkpoint.Checkpoint | None = None
        run: Run | None = None
        exists = self.world.gather(Run.is_run(self.folder))[0]
        if exists:
            run = Run.open(self.folder)
            if not settings.resume:
                raise TastemakerError(
                    f"{self.folder}: holds a run already and resume is off; choose another --out"
                )
            changed = run.changes(settings=inputs, data=sources, parents=parents, ignore=WITHOUT_EFFECT)
            if run.record.status in ENDED and not changed:
                return run, None
            saved = self.newest(run)
            if self.world.main:
                run.resume(
                    saved.step if saved else 0,
                    settings=inputs,
                    data=sources,
                    parents=parents,
                    ignore=WITHOUT_EFFECT,
                    force=force,
                )
        elif self.world.main:
            run = Run.create(
                self.folder,
                method=self.method.name,
                settings=inputs,
                seed=settings.seed,
                parents=parents,
                data=sources,
            )
        self.world.barrier()
        return (run if self.world.main else None), saved

    def newest(self, run: Run) -> checkpoint.Checkpoint | None:
        """The newest sound checkpoint. One process looks first: it sets damaged ones aside."""
        found = checkpoint.load_latest(run.checkpoints_dir) if self.world.main else None
        self.world.barrier()
        return found if self.world.main else checkpoint.load_latest(run.checkpoints_dir)

    def save(
        self,
        run: Run,
        models: RoleModels,
        optimizer: torch.optim.Optimizer,
        parameters: Mapping[str, torch.nn.Parameter],
        step: int,
        meter: Meter,
    ) -> None:
        moments, optimizer_state = checkpoint.pack_optimizer(optimizer, parameters)
        random, random_state = checkpoint.rng_state()
        run.update(resources=self.spent(meter))
        run.sync()
        state = {
            "optimizer": optimizer_state,
            "random": random_state,
            "counters": vars(self.counters),
            "method": self.method.state(),
            "reward": self.reward.state() if isinstance(self.reward, StatefulReward) else {},
            "stopped": list(self.notes),
            "gold": self.watch.state() if self.watch is not None else {},
        }
        tensors = {"weights": models.state(), "optimizer": moments, "random": random}
        checkpoint.save(run.checkpoints_dir, step, tensors, state, keep_last=self.settings.save_total_limit)

    def restore(
        self,
        models: RoleModels,
        optimizer: torch.optim.Optimizer,
        parameters: Mapping[str, torch.nn.Parameter],
        saved: checkpoint.Checkpoint,
    ) -> int:
        state = cast(dict[str, Any], saved.state)
        models.load_state(saved.tensors("weights"))
        checkpoint.unpack_optimizer(optimizer, parameters, saved.tensors("optimizer"), state["optimizer"])
        checkpoint.restore_rng(saved.tensors("random"), state["random"])
        for name, value in state["counters"].items():
            setattr(self.counters, name, value)
        self.method.load_state(state["method"])
        if isinstance(self.reward, StatefulReward):
            self.reward.load_state(state["reward"])
        self.notes = list(state.get("stopped", ()))
        if self.watch is not None:
            if not state.get("gold"):
                raise TastemakerError(
                    f"{self.folder}: its checkpoint has no readings of a gold, and its start can no longer be "
                    "read. Start in another folder, or leave stop_at_gold_peak out."
                )
            self.watch.load_state(state["gold"])
        log.info("%s: resumed after step %d", self.folder, saved.step)
        return saved.step

    def put_back(self, models: RoleModels) -> str | None:
        """The weights that the gold chose, in every process; which those are, in words."""
        if self.watch is None:
            return None
        self.world.barrier()
        return self.watch.put_back(models)

    def spent(self, meter: Meter) -> Resources:
        """What the run has cost so far."""
        counted = {"flops": dict(self.counters.flops), "tokens": dict(self.counters.tokens)}
        return meter.read().model_copy(update=counted)

    @contextmanager
    def recorded(self, run: Run | None) -> Generator[None]:
        """Writes into the record how the run ended when it did not end well."""
        try:
            yield
        except (Interrupted, KeyboardInterrupt):
            if run is not None:
                run.update(status="interrupted")
            raise
        except Exception as error:
            if run is not None:
                run.update(status="failed", reason=str(error).splitlines()[0] if str(error) else repr(error))
            raise
