"""Writing that survives a kill at any moment: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
from pathlib import Path

from tastemaker.errors import TastemakerError

TEMPORARY = ".tmp-"


def sync_folder(folder: Path) -> None:
    """Makes names that were created, renamed or removed in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Makes what was written to `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Replaces `path` whole: whoever reads sees the old bytes or the new ones, never a mixture.

    The temporary name is fixed, since one process at a time writes a run (`RunLock`): what a killed
    process left behind is overwritten by the next write.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def append(path: Path, data: bytes) -> None:
    """Appends whole lines; a line that a killed process left half written is cut off first."""
    try:
        with open(path, "a+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            file.write(data)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> TastemakerError:
    """The error for a write that failed, with its reason and remedy."""
    return TastemakerError(
        f"{path}: cannot be written: {error.strerror or error}. What was there before is intact. "
        "Free space or correct the permissions, then start again."
    )
