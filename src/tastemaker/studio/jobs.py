"""Trainings that the studio starts: each a process of its own, as if typed at the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tastemaker.config import method_and_settings
from tastemaker.errors import TastemakerError
from tastemaker.methods import METHODS
from tastemaker.runs import run_folder

OFFLINE = ("sft", "reward", "dpo", "simpo", "cpo", "orpo", "kto", "bco")
"""Methods that need a model and a file of data, no more."""
ONLINE = ("ppo", "grpo", "rloo", "reinforce", "online_dpo")
"""Methods that also need a reward model."""
OFFERED = OFFLINE + ONLINE
SETTINGS = (
    "beta",
    "kl_coef",
    "loss_type",
    "response_length",
    "max_completion_length",
    "num_generations",
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "max_length",
    "use_peft",
    "lora_r",
    "seed",
)
"""What the form may set; everything else keeps its default."""
LOGS = ".studio"
_TAIL = 4_000


@dataclass
class Jobs:
    """Running trainings by the name of their run."""

    root: Path
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict[str, "subprocess.Popen[bytes]"])
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def start(
        self,
        name: str,
        method: str,
        model: str,
        data: str,
        values: Mapping[str, object],
        reward: str | None = None,
    ) -> Path:
        """Starts a training in the background; its run's folder.

        Raises TastemakerError: a name that cannot be one or is taken, an unknown method or setting, a reward
        that is missing or that the method has no use for.
        """
        folder = run_folder(self.root, name)
        if folder.exists():
            raise TastemakerError(f"{name}: there is a run of that name already.")
        command = command_line(method, model, data, folder, values, reward)
        logs = self.root / LOGS
        logs.mkdir(parents=True, exist_ok=True)
        with self._turn:
            if name in self._running and self._running[name].poll() is None:
                raise TastemakerError(f"{name}: is being trained already.")
            with open(logs / f"{name}.log", "wb") as log:
                self._running[name] = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.root,
                    env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
                    start_new_session=True,
                )
        return folder

    def status(self, name: str) -> dict[str, object]:
        """Whether a training runs, how it ended, and the end of what it printed."""
        with self._turn:
            process = self._running.get(name)
            code = None if process is None else process.poll()
        path = run_folder(self.root / LOGS, f"{name}.log"[:64])
        text = path.read_text(errors="replace")[-_TAIL:] if path.is_file() else ""
        return {"running": process is not None and code is None, "exit_code": code, "log": text}

    def stop(self, name: str) -> None:
        """Asks a training to end in good order."""
        with self._turn:
            process = self._running.get(name)
            if process is None or process.poll() is not None:
                raise TastemakerError(f"{name}: no such training runs.")
            process.send_signal(signal.SIGTERM)


def command_line(
    method: str,
    model: str,
    data: str,
    folder: Path,
    values: Mapping[str, object],
    reward: str | None = None,
) -> Sequence[str]:
    """What one would type. Settings are checked here, so that the form can say what is wrong with them."""
    if method not in OFFERED:
        raise TastemakerError(f"method: {method!r} is none of {', '.join(OFFERED)}.")
    if (method in ONLINE) != (reward is not None):
        need = (
            "learns from a reward: choose a reward model."
            if reward is None
            else "has no use for a reward model."
        )
        raise TastemakerError(f"{method}: {need}")
    unknown = sorted(values.keys() - set(SETTINGS))
    if unknown:
        raise TastemakerError(f"{unknown[0]}: cannot be set here; there are {', '.join(SETTINGS)}.")
    given = {k: v for k, v in values.items() if v is not None and v != ""}
    method_and_settings(METHODS[method], given, origin="the form")
    flags = [f"--{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in given.items()]
    program = (sys.executable, "-m", "tastemaker", method)
    inputs = [f"--model={model}", f"--data={data}", *(() if reward is None else (f"--reward={reward}",))]
    return [*program, *inputs, f"--out={folder}", *flags]
