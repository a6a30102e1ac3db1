"""Which options there are, read from the sources of the settings without importing them.

Methods import torch, which takes seconds. Help and the errors of flags must not wait for it, and
descriptions (the line under each field) exist in the source alone, so the fields of the dataclasses are
read from their syntax trees. A test holds what is read here equal to the imported classes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

from tastemaker.config import CompareSettings, TrainSettings
from tastemaker.config.check import field_types, is_sequence
from tastemaker.config.settings import DATA_FIELDS, MODEL_FIELDS

BASIC: Mapping[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "object": object,
    "None": None,
    "tuple": tuple,
    "list": list,
    "Annotated": Annotated,
    "Literal": Literal,
}


@dataclass(frozen=True)
class Option:
    """A setting as help shows it."""

    name: str
    kind: Any
    """Its type. `object`: anything goes until the class itself is at hand."""
    default: str
    """As shown; empty: it must be given."""
    text: str
    group: str = ""

    @property
    def required(self) -> bool:
        """Whether it must be given; an empty list is a default like any other."""
        return not self.default and not is_sequence(self.kind)


@dataclass(frozen=True)
class Declared:
    """A method as its source declares it."""

    name: str
    summary: str
    """First line of its docstring."""
    options: tuple[Option, ...]
    defaults: Mapping[str, object]
    """Run settings that differ for this method."""
    needs_reward: bool
    """Whether it learns from a reward model that must be named."""


@dataclass(frozen=True)
class _Class:
    name: str
    bases: tuple[str, ...]
    doc: str
    body: list[ast.stmt]


INPUTS: tuple[Option, ...] = (
    Option(
        "model", str, "", "Where the policy starts: name on the hub, folder, one of our runs, or tiny.", "run"
    ),
    Option(
        "data", str, "", "Training data: JSONL, JSON, CSV, Parquet (.gz too), a folder or a hub name.", "run"
    ),
    Option(
        "out",
        str,
        "runs/METHOD",
        "Folder of the run. The same command continues a run that was cut off.",
        "run",
    ),
    Option(
        "eval_data", str | None, "none", "Held-out data in the same format, evaluated after training.", "run"
    ),
)
REWARD = Option(
    "reward",
    object,
    "",
    "maths, exact_match, format:REGEX, code, length:COST, overlong:LIMIT,BUFFER; FILE.py:FUNCTION; judge:WHO, "
    "an AI judge; a run of `tastemaker reward` or `process_reward`, or a folder. In a file also a list, with "
    "weights.",
    "run",
)
CONFIG = Option("config", str | None, "none", "YAML file of settings; options given here overrule it.", "run")


def train_options() -> tuple[Option, ...]:
    """The settings every run has."""
    return tuple(Option(o.name, o.kind, o.default, o.text, _group(o.name)) for o in _of_settings(TrainSettings))


def compare_options() -> tuple[Option, ...]:
    """What a comparison can be told, apart from its stages."""
    return tuple(
        Option(o.name, o.kind, o.default, o.text, "comparison")
        for o in _of_settings(CompareSettings)
        if o.name != "stages"
    )


def _group(name: str) -> str:
    return "model" if name in MODEL_FIELDS else "data" if name in DATA_FIELDS else "training"


@cache
def _all_declared() -> Mapping[str, Declared]:
    """The methods by name, in the order of the registry, and `sample`, which trains nothing."""
    classes: dict[str, _Class] = {}
    imported: list[str] = []
    folder = files("tastemaker").joinpath("methods")
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".py"):
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if file.name == "__init__.py":
            imported = _registered(tree)
            continue
        for found in _classes(tree):
            classes[found.name] = found
    methods = [_declared(classes[name], classes) for name in (*imported, "Sample") if name in classes]
    return {method.name: method for method in methods}


def declared_methods() -> Mapping[str, Declared]:
    """The methods of this package by name, in the order of its registry."""
    return {name: found for name, found in _all_declared().items() if name != "sample"}


def declared_sample() -> Declared:
    """What `tastemaker sample` and the stages of that name can be told."""
    return _all_declared()["sample"]


@cache
def declared_options(path: tuple[str, ...], name: str, group: str) -> tuple[Option, ...]:
    """The fields of a settings class in a file of this package, e.g. ("studies", "labelling.py")."""
    source = files("tastemaker").joinpath(*path).read_text(encoding="utf-8")
    found = next(c for c in _classes(ast.parse(source)) if c.name == name)
    return tuple(
        Option(
            getattr(node.target, "id", ""),
            _kind(node.annotation),
            _shown(ast.unparse(node.value)) if node.value else "",
            text,
            group,
        )
        for node, text in _fields(found.body)
        if not _is_constant(node)
    )


def _registered(tree: ast.Module) -> list[str]:
    """The class names in the registry `METHODS`, in order."""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "METHODS" and node.value:
            return [n.id for n in ast.walk(node.value) if isinstance(n, ast.Name) and n.id[:1].isupper()]
    return []


def _declared(cls: _Class, classes: Mapping[str, _Class]) -> Declared:
    constants: dict[str, ast.expr] = {}
    options: dict[str, Option] = {}
    for ancestor in _lineage(cls, classes):
        for node, text in _fields(ancestor.body):
            name = getattr(node.target, "id", "")
            if _is_constant(node):
                if node.value is not None:
                    constants[name] = node.value
            elif not _is_hidden(node):
                shown = "" if node.value is None else _shown(ast.unparse(node.value))
                options[name] = Option(name, _kind(node.annotation), shown, text, "method")
    given = {name: ast.literal_eval(node) for name, node in constants.items() if _is_literal(node)}
    return Declared(
        name=given["name"],
        summary=cls.doc.strip().splitlines()[0] if cls.doc else "",
        options=tuple(options.values()),
        defaults=given["defaults"],
        needs_reward="reward" in given["roles"] and "reward" not in given["trains"],
    )


def _lineage(cls: _Class, classes: Mapping[str, _Class]) -> Iterator[_Class]:
    """The class after its bases, those of this package only."""
    for base in reversed(cls.bases):
        if base in classes:
            yield from _lineage(classes[base], classes)
    yield cls


def _classes(tree: ast.Module) -> Iterator[_Class]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = tuple(b.id for b in node.bases if isinstance(b, ast.Name))
            yield _Class(node.name, bases, ast.get_docstring(node) or "", node.body)


def _fields(body: list[ast.stmt]) -> Iterator[tuple[ast.AnnAssign, str]]:
    """Each annotated name with the string below it."""
    following: list[ast.stmt | None] = [*body[1:], None]
    for node, after in zip(body, following, strict=True):
        if isinstance(node, ast.AnnAssign):
            text = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                text = " ".join(str(after.value.value).split())
            yield node, text


def _is_constant(node: ast.AnnAssign) -> bool:
    return ast.unparse(node.annotation).startswith("ClassVar")


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def _is_hidden(node: ast.AnnAssign) -> bool:
    """`field(init=False)`: state, not a setting."""
    value = node.value
    return isinstance(value, ast.Call) and any(
        k.arg == "init" and isinstance(k.value, ast.Constant) and k.value.value is False for k in value.keywords
    )


def _kind(node: ast.expr) -> Any:
    """The type an annotation means; `object` where it uses names that are not known here."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return BASIC.get(node.id, object)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        left, right = _kind(node.left), _kind(node.right)
        return object if object in (left, right) else left | right
    if isinstance(node, ast.Subscript):
        outer = _kind(node.value)
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if outer is Annotated:  # the constraints are checked by the class itself
            return _kind(parts[0])
        inner: Any = tuple(_kind(p) for p in parts)
        if object not in inner and outer is not object:
            return outer[inner]
    return object


def _of_settings(cls: type) -> Iterator[Option]:
    """The fields of a dataclass in config/settings.py: types from the class, texts from its source."""
    source = files("tastemaker").joinpath("config", "settings.py").read_text(encoding="utf-8")
    found = next(c for c in _classes(ast.parse(source)) if c.name == cls.__name__)
    texts = {getattr(node.target, "id", ""): (node, text) for node, text in _fields(found.body)}
    for name, kind in field_types(cls).items():
        node, text = texts[name]
        yield Option(name, kind, _shown(ast.unparse(node.value)) if node.value else "", text)


def _shown(source: str) -> str:
    """A default as a user would type it."""
    try:
        value = ast.literal_eval(source)
    except ValueError:
        return ""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(str(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
