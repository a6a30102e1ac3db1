"""A run is a folder; its record, its lock, its lineage."""

from tastemaker.runs.fingerprint import (
    Difference,
    canonical_json,
    differences,
    plain,
    sha256_bytes,
    sha256_file,
    sha256_folder,
    sha256_json,
)
from tastemaker.runs.lineage import MADE_FILE, Node, contents_behind, lineage, list_runs, render_tree
from tastemaker.runs.lock import Holder, RunLock, holder
from tastemaker.runs.names import check_name, default_name, run_folder
from tastemaker.runs.record import Run
from tastemaker.runs.redact import redact, redact_text
from tastemaker.runs.resources import Meter, Resources, peak_rss_bytes
from tastemaker.runs.schema import Parent, Record, Source, Status

__all__ = [
    "MADE_FILE",
    "Difference",
    "Holder",
    "Meter",
    "Node",
    "Parent",
    "Record",
    "Resources",
    "Run",
    "RunLock",
    "Source",
    "Status",
    "canonical_json",
    "check_name",
    "contents_behind",
    "default_name",
    "differences",
    "holder",
    "lineage",
    "list_runs",
    "peak_rss_bytes",
    "plain",
    "redact",
    "redact_text",
    "render_tree",
    "run_folder",
    "sha256_bytes",
    "sha256_file",
    "sha256_folder",
    "sha256_json",
]
