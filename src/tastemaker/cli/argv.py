"""Splits a command line into a flat mapping. Values stay text: `config` checks them, as it does for YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tastemaker.config import canonical
from tastemaker.config.check import is_sequence, is_switch
from tastemaker.config.names import ALIASES

ON_OFF = {
    "true": True,
    "false": False,
    "yes": True,
    "no": False,
    "on": True,
    "off": False,
    "1": True,
    "0": False,
}


@dataclass
class Given:
    """What a command line says."""

    values: dict[str, object] = field(default_factory=dict[str, object])
    """Option as typed, hyphens included -> value. The last one wins where an option is repeated."""
    words: list[str] = field(default_factory=list[str])
    """What is no option and no option's value."""
    problems: list[str] = field(default_factory=list[str])
    help: bool = False


def read(argv: Sequence[str], types: Mapping[str, Any], staged: Mapping[str, Any] | None = None) -> Given:
    """Reads `--name value`, `--name=value`, `--switch`, `--no-switch`, `--switch true`, `--list a b` and
    `--list a,b`; hyphens and underscores alike.

    `types` tells which options are switches or lists; `staged` does so for names after a dot
    (`--dpo.beta`). Unknown names are kept, with the words up to the next option, for `config` to report.
    """
    given = Given()
    words = list(argv)
    while words:
        word = words.pop(0)
        if word in ("-h", "--help"):
            given.help = True
        elif word == "--":
            given.words += words
            break
        elif word.startswith("--"):
            name, equals, value = word.partition("=")
            _option(given, name, [value] if equals else None, words, types, staged or {})
        elif _is_option(word):
            given.problems.append(f"{word}: no such option; options begin with two hyphens")
        else:
            given.words.append(word)
    return given


def _option(
    given: Given,
    name: str,
    values: list[str] | None,
    words: list[str],
    types: Mapping[str, Any],
    staged: Mapping[str, Any],
) -> None:
    """Reads one option; without `values` of its own (`--name=value`) it takes them off `words`."""
    stage, dot, last = name.removeprefix("--").rpartition(".")
    known = staged if dot else types
    kind = _kind(last, known)
    if kind is None and values is None and last[:3] in ("no-", "no_"):
        positive = _kind(last[3:], known)
        if positive is not None and is_switch(positive):
            given.values[f"--{stage}{dot}{last[3:]}"] = False
            return
    if values is None:
        values = _take(words, kind)
    if kind is not None and is_switch(kind):
        text = values[0] if values else "true"
        given.values[name] = ON_OFF.get(text.lower(), text)
    elif kind is not None and not values:
        given.problems.append(f"{name}: needs a value")
    elif kind is not None and is_sequence(kind):
        parts = [part for value in values for part in value.split(",") if part]
        before = given.values.get(name, [])
        given.values[name] = [*before, *parts] if isinstance(before, list) else parts
    else:
        given.values[name] = " ".join(values) if values else True


def _take(words: list[str], kind: Any) -> list[str]:
    """Takes an option's values off the front of `words`."""
    taken: list[str] = []
    while words and not _is_option(words[0]):
        if kind is not None and is_switch(kind) and words[0].lower() not in ON_OFF:
            break
        taken.append(words.pop(0))
        if kind is not None and not is_sequence(kind):
            break
    return taken


def _kind(name: str, types: Mapping[str, Any]) -> Any:
    """The type of a known option, by any of its names; None where it is unknown."""
    name = name.replace("-", "_")
    if name in types:
        return types[name]
    named = canonical(name, "true", types.keys()).name
    if named is None:
        return None
    return ALIASES[name].kind or types[named]


def _is_option(word: str) -> bool:
    """Whether a word begins an option: not a lone hyphen, not a negative number."""
    if not word.startswith("-") or word == "-":
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False
