"""What names in requests may stand for: runs below the root, models named at the start, files of data."""

from __future__ import annotations

from pathlib import Path

from fastapi import HTTPException

from tastemaker.errors import TastemakerError
from tastemaker.runs import Run, check_name, list_runs, run_folder
from tastemaker.studio.routes import Studio

ENDINGS = (".jsonl", ".json", ".csv", ".parquet", ".gz")


def folder_below(root: Path, name: str) -> Path:
    """The folder that `a/b/c` means below `root`: every part a proper name, none a link. Raises 404."""
    folder = root.resolve()
    parts = name.split("/")
    if len(parts) > 8:
        raise HTTPException(404, "There is no such run.")
    try:
        for part in parts:
            folder = run_folder(folder, part)
    except TastemakerError:
        raise HTTPException(404, "There is no such run.") from None
    return folder


def run_named(studio: Studio, name: str) -> Run:
    """The run below the root. Raises 404."""
    folder = folder_below(studio.root, name)
    if not Run.is_run(folder):
        raise HTTPException(404, "There is no such run.")
    return Run.open(folder)


def name_of(studio: Studio, run: Run) -> str:
    """The inverse of `run_named`."""
    return run.folder.relative_to(studio.root.resolve()).as_posix()


def runs_below(studio: Studio) -> list[Run]:
    """All runs below the root, oldest first."""
    return list_runs(studio.root) if studio.root.is_dir() else []


def model_source(studio: Studio, name: str) -> str:
    """What to load for a name that the page offers: a model named at the start, or a run with a result."""
    if name in studio.models:
        return name
    run = run_named(studio, name)
    if not run.model_dir.is_dir():
        raise TastemakerError(f"{name}: has no model yet ({run.status}).")
    return str(run.folder)


def model_names(studio: Studio) -> list[str]:
    """Models that can write: those named at the start, and finished runs of policies."""
    runs = [
        r for r in runs_below(studio) if r.model_dir.is_dir() and r.method not in ("reward", "process_reward")
    ]
    return [*studio.models, *(name_of(studio, run) for run in reversed(runs))]


def reward_names(studio: Studio) -> list[str]:
    """Finished reward models, newest first."""
    runs = [r for r in runs_below(studio) if r.model_dir.is_dir() and r.method == "reward"]
    return [name_of(studio, run) for run in reversed(runs)]


def data_files(studio: Studio) -> list[Path]:
    """Files in the data folder, newest first."""
    if not studio.data.is_dir():
        return []
    found = [
        p for p in studio.data.iterdir() if p.is_file() and not p.is_symlink() and p.suffix.lower() in ENDINGS
    ]
    return sorted(found, key=lambda p: (-p.stat().st_mtime, p.name))


def data_named(studio: Studio, name: str) -> Path:
    """A file of the data folder by its name. Raises 404."""
    found = next((p for p in data_files(studio) if p.name == name), None)
    if found is None:
        raise HTTPException(404, "There is no such file of data.")
    return found


def data_to_write(studio: Studio, name: str) -> Path:
    """Where a new file of the data folder goes. Raises TastemakerError for no proper name."""
    check_name(name)
    studio.data.mkdir(parents=True, exist_ok=True)
    path = studio.data / name
    if path.is_symlink():
        raise TastemakerError(f"{name}: is a link; choose another name.")
    return path
