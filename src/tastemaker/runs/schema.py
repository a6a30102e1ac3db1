"""What run.json holds."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from tastemaker.runs.resources import Resources

SCHEMA_VERSION = 1

Status = Literal["running", "finished", "stopped", "failed", "interrupted"]
"""`stopped`: ended early in good order (a KL stop). `interrupted`: can be resumed."""


class Parent(BaseModel):
    """A model that went into a run."""

    model_config = ConfigDict(frozen=True, extra="allow")

    role: str
    path: str
    """A folder (relative to the run where they lie near each other), or a name on the hub."""
    weights_hash: str


class Source(BaseModel):
    """Data that went into a run."""

    model_config = ConfigDict(frozen=True, extra="allow")

    source: str
    sha256: str
    rows: int


class Forced(BaseModel):
    """A resume that was forced although its inputs had changed."""

    model_config = ConfigDict(frozen=True, extra="allow")

    step: int
    when: str
    changes: tuple[str, ...]


class Record(BaseModel):
    """The content of run.json. Unknown fields, of a later version, are kept as they are."""

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: int
    name: str
    method: str
    status: Status
    reason: str | None = None
    """Why it stopped or failed."""
    created: str
    ended: str | None = None
    command: str
    seed: int
    settings: dict[str, object]
    parents: tuple[Parent, ...] = ()
    data: tuple[Source, ...] = ()
    versions: dict[str, str]
    git_commit: str | None = None
    forced: tuple[Forced, ...] = ()
    hashes: dict[str, str] = {}
    """SHA-256 of results; `weights` is the model's."""
    resources: Resources = Resources()
