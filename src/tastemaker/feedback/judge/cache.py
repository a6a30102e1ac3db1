"""Answers on disk: appended one by one as they come, so that nobody is asked the same question twice.

The key of an answer is a digest of who was asked (the judge's whole name), by which template (its content), and
what: task, prompt, the responses in the order shown, principle with its wording, critique, seed, text or
log-probs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from tastemaker.feedback.judge.asking import Ask, Reply
from tastemaker.feedback.judge.fence import spoken
from tastemaker.runs.files import append, sync_file
from tastemaker.runs.lines import read_lines, to_line
from tastemaker.types import TastemakerError

SYNC_EVERY = 64
"""Answers between two calls of fsync: a kill loses none, a power cut at most these."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer and when it was given."""

    reply: Reply
    when: str


class Answers:
    """Answers in a file (`path`), or in memory alone (None). One process writes a file at a time."""

    def __init__(self, path: str | Path | None = None) -> None:
        """Raises TastemakerError where a line of the file is no answer, naming it."""
        self.path = None if path is None else Path(path)
        self._kept: dict[str, Kept] = {}
        self._unsynced = 0
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for number, line in enumerate(read_lines(self.path), 1):
                key, kept = _read(line, f"{self.path}:{number}")
                self._kept[key] = kept

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> Kept | None:
        return self._kept.get(key)

    def keep(self, key: str, ask: Ask, reply: Reply, judge: str) -> Kept:
        """Appends an answer; it is on disk when this returns."""
        kept = Kept(reply, datetime.now(UTC).isoformat(timespec="milliseconds"))
        self._kept[key] = kept
        if self.path is not None:
            said: dict[str, object] = {
                "key": key,
                "judge": judge,
                "task": ask.task,
                "principle": ask.principle,
                "when": kept.when,
                "text": reply.text,
                "logps": dict(reply.logps),
                "tokens_in": reply.tokens_in,
                "tokens_out": reply.tokens_out,
                "cost": reply.cost,
                "seconds": round(reply.seconds, 6),
            }
            append(self.path, to_line(said))
            self._unsynced += 1
            if self._unsynced >= SYNC_EVERY:
                self.sync()
        return kept

    def sync(self) -> None:
        """Makes what was appended survive a power cut."""
        if self.path is not None and self._unsynced and os.path.exists(self.path):
            sync_file(self.path)
            self._unsynced = 0


def key_of(judge: str, template: str, ask: Ask) -> str:
    """The key of the answer to `ask`."""
    parts = {
        "judge": judge,
        "template": template,
        "task": ask.task,
        "prompt": spoken(ask.prompt)
        if isinstance(ask.prompt, str)
        else [[m.role, m.content] for m in ask.prompt],
        "responses": ask.responses,
        "principle": ask.principle,
        "critique": ask.critique,
        "logps": ask.logps,
        "seed": ask.seed,
        "mark": ask.tag,  # made of every text above, the wording of the principle among them
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read(line: Mapping[str, object], where: str) -> tuple[str, Kept]:
    try:
        found = cast("Mapping[str, Any]", line)
        reply = Reply(
            text=str(found["text"]),
            logps={str(k): float(v) for k, v in found["logps"].items()},
            tokens_in=int(found["tokens_in"]),
            tokens_out=int(found["tokens_out"]),
            cost=float(found["cost"]),
            seconds=float(found["seconds"]),
        )
        return str(found["key"]), Kept(reply, str(found["when"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TastemakerError(
            f"{where}: is no answer of a judge ({type(error).__name__}: {error}). Remove the line, or name "
            "another file for the answers."
        ) from error
