"""Reads YAML settings: safe, no key twice, and every key knows its line."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from tastemaker.config.check import fail

log = logging.getLogger(__name__)

RECIPE_ENDINGS = (".yaml", ".yml", ".json")
"""How the name of a settings file ends."""


@dataclass(frozen=True)
class Config:
    """What a file says. `where[key]` is `file:line` of each top-level key."""

    values: dict[str, Any]
    where: dict[str, str]
    path: Path


class _Duplicate(yaml.YAMLError):
    pass


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, which plain YAML would settle in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key: Any = self.construct_object(key_node, deep=True)  # pyright: ignore[reportUnknownMemberType]
            spelled = key.replace("-", "_") if isinstance(key, str) else key
            line = key_node.start_mark.line + 1
            if spelled in seen:
                raise _Duplicate(
                    f"line {line}: {key} is already given in line {seen[spelled]}; keep one of them"
                )
            seen[spelled] = line
        return super().construct_mapping(node, deep=deep)


def load_config(path: str | PathLike[str]) -> Config:
    """Reads a YAML (or JSON) file whose top is a mapping.

    A TRL file's `env` block is left out, with a word in the log: set the variables where you start the
    command. Raises `TastemakerError` (with line) for a file that is absent, broken, not a mapping, or gives
    a key twice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        fail(f"{path}: cannot be read: {reason}")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        values: Any = {} if node is None else loader.construct_document(node)  # pyright: ignore[reportUnknownMemberType]
    except _Duplicate as error:
        fail(f"{path}: {error}")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        fail(f"{path}: {line}not valid YAML: {error.problem or error.context}")
    except yaml.YAMLError as error:
        fail(f"{path}: not valid YAML: {error}")
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        fail(f"{path}: should be settings, one `name: value` a line; found {type(values).__name__}")
    where = {str(k.value): f"line {k.start_mark.line + 1}" for k, _ in node.value} if node is not None else {}
    if "env" in values:
        log.warning("%s: env is left out: set these variables where you start the command", path)
        del values["env"]
    return Config({str(k): v for k, v in values.items()}, where, path)
