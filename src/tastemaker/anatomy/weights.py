"""What changed between a run and its parent, by layer and kind, streamed: little memory however large the
model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tastemaker.anatomy.stored import KINDS, Stored, delta_blocks, kind_of, layer_of, open_stored
from tastemaker.errors import TastemakerError

DIRECTIONS = 8
"""Leading directions of a change that are compared between runs."""
WIDEST = 8192
"""Smaller side of a matrix beyond which no spectrum is taken."""
Progress = Callable[[int, int], None]


def compare_weights(
    runs: Sequence[str | Path],
    parents: Sequence[str | Path],
    *,
    names: Sequence[str] | None = None,
    directions: int = DIRECTIONS,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What each run changed in its parent's weights, and how far the runs changed the same.

    By tensor: `relative` |change| / |parent|, `cosine` of the weights before and after, `effective_rank` of
    the change (exp of the entropy of its singular values over their sum, Roy and Vetterli 2007), `stable_rank`
    |change|^2 / largest singular value^2. By layer and kind the squares are summed first. Between runs, by
    matrix: `overlap` |U_a^T U_b|^2 / k of the leading k directions in the smaller of the two dimensions (1 the
    same space, k / dimension by chance), and the `cosine` of the changes themselves.

    At most one block of a tensor of two models is held at a time, beside a square matrix of its smaller side.

    Raises TastemakerError where tensors do not match.
    """
    titles = list(names or [str(r) for r in runs])
    opened = [(open_stored(run), open_stored(parent)) for run, parent in zip(runs, parents, strict=True)]
    tensors = _common(opened)
    rows: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for i, tensor in enumerate(tensors):
        spaces: list[Tensor | None] = []
        for title, (run, parent) in zip(titles, opened, strict=True):
            row, space = _tensor(run, parent, tensor, directions)
            rows.append({"run": title, **row})
            spaces.append(space)
        for (a, first), (b, second) in combinations(enumerate(spaces), 2):
            if first is not None and second is not None:
                pairs.append(
                    {"a": titles[a], "b": titles[b]} | _overlap(first, second, opened[a], opened[b], tensor)
                )
        if progress is not None:
            progress(i + 1, len(tensors))
    return {
        "runs": titles,
        "directions": directions,
        "tensors": rows,
        "groups": {title: _grouped([r for r in rows if r["run"] == title]) for title in titles},
        "kinds": {title: _kinds([r for r in rows if r["run"] == title]) for title in titles},
        "overlaps": pairs,
        "overlap_means": _overlap_means(pairs),
        "findings": {title: statement([r for r in rows if r["run"] == title]) for title in titles},
    }


def _common(opened: Sequence[tuple[Stored, Stored]]) -> list[str]:
    names = opened[0][0].names
    for run, parent in opened:
        missing = (set(run.names) ^ set(parent.names)) | (set(run.names) ^ set(names))
        missing = {n for n in missing if kind_of(n) != "head"}  # a tied output head may be stored or not
        if missing:
            raise TastemakerError(
                f"{run.folder} and {parent.folder}: {len(missing)} tensors are in one alone (first: "
                f"{min(missing)}), so these are not one architecture. Name the right parent with --parent."
            )
    everywhere = set(names).intersection(*(set(s.names) for pair in opened for s in pair))
    return [n for n in names if n in everywhere]


def _tensor(run: Stored, parent: Stored, name: str, directions: int) -> tuple[dict[str, Any], Tensor | None]:
    """Figures of one tensor, and the leading directions of its change."""
    change2 = before2 = inner = 0.0
    gram: Tensor | None = None
    shape = run.shape(name)
    count = 0
    for change, before in delta_blocks(run, parent, name):
        change2 += float(change.double().square().sum())
        before2 += float(before.double().square().sum())
        inner += float((before.double() * change.double()).sum())
        count += before.numel()
        if change.dim() == 2:
            gram = _add_gram(gram, change, shape)
    after2 = before2 + 2 * inner + change2
    rank = stable = math.nan
    space = None
    if gram is not None and change2 > 0:
        values, vectors = torch.linalg.eigh(gram)
        singular = values.clamp(min=0).sqrt()
        share = singular / singular.sum()
        rank = float(torch.special.entr(share).sum().exp())
        stable = float(values.clamp(min=0).sum() / values[-1])
        space = vectors[:, -min(directions, len(values)) :]
    row = {
        "tensor": name,
        "layer": layer_of(name),
        "kind": kind_of(name),
        "parameters": count,
        "change2": change2,
        "before2": before2,
        "inner": inner,
        "relative": math.sqrt(change2 / before2) if before2 else math.nan,
        "cosine": (before2 + inner) / math.sqrt(before2 * after2) if before2 and after2 > 0 else math.nan,
        "effective_rank": rank,
        "stable_rank": stable,
    }
    return row, space


def _add_gram(gram: Tensor | None, change: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """Sum of a block's products over the longer side of its tensor; None where even the smaller side is too
    wide.
    """
    if min(shape) > WIDEST:
        return None
    wide = change.double()
    product = wide.T @ wide if shape[0] >= shape[1] else wide @ wide.T
    return product if gram is None else gram + product


def _overlap(
    first: Tensor, second: Tensor, a: tuple[Stored, Stored], b: tuple[Stored, Stored], name: str
) -> dict[str, Any]:
    k = first.shape[1]
    inner = one = other = 0.0
    for (x, _), (y, _) in zip(delta_blocks(*a, name), delta_blocks(*b, name), strict=True):
        inner += float((x.double() * y.double()).sum())
        one += float(x.double().square().sum())
        other += float(y.double().square().sum())
    return {
        "tensor": name,
        "layer": layer_of(name),
        "kind": kind_of(name),
        "overlap": float((first.T @ second).square().sum()) / k,
        "by_chance": k / len(first),
        "cosine": inner / math.sqrt(one * other),
    }


def _grouped(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By layer and kind; what lies outside the layers has layer None."""
    keys = sorted({(-1 if r["layer"] is None else r["layer"], KINDS.index(r["kind"])) for r in rows})
    found: list[dict[str, Any]] = []
    for layer, kind in keys:
        own = [
            r for r in rows if (-1 if r["layer"] is None else r["layer"]) == layer and r["kind"] == KINDS[kind]
        ]
        found.append({"layer": None if layer < 0 else layer, "kind": KINDS[kind], **_sum(own)})
    return found


def _kinds(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"kind": k, **_sum([r for r in rows if r["kind"] == k])}
        for k in KINDS
        if any(r["kind"] == k for r in rows)
    ]


def _sum(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    change2, before2 = (sum(r[k] for r in rows) for k in ("change2", "before2"))
    inner = sum(r["inner"] for r in rows)
    after2 = before2 + 2 * inner + change2
    ranks = [(r["effective_rank"], r["change2"]) for r in rows if not math.isnan(r["effective_rank"])]
    weight = sum(w for _, w in ranks)
    return {
        "relative": math.sqrt(change2 / before2) if before2 else math.nan,
        "cosine": (before2 + inner) / math.sqrt(before2 * after2) if before2 and after2 > 0 else math.nan,
        "effective_rank": sum(r * w for r, w in ranks) / weight if weight else math.nan,
        "parameters": sum(r["parameters"] for r in rows),
        "share": change2,
    }


def _overlap_means(pairs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By pair of runs and kind: mean overlap of matrices, what chance gives, and the mean cosine of changes."""
    found: list[dict[str, Any]] = []
    for a, b, kind in dict.fromkeys((p["a"], p["b"], p["kind"]) for p in pairs):
        own = [p for p in pairs if (p["a"], p["b"], p["kind"]) == (a, b, kind)]
        means = {k: sum(p[k] for p in own) / len(own) for k in ("overlap", "by_chance", "cosine")}
        found.append({"a": a, "b": b, "kind": kind, "matrices": len(own), **means})
    return found


def statement(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The common statement "MLPs change most, attention moderately and in middle and upper layers, embeddings
    little", checked by relative norms: each part as found, and `holds`: all of it does.
    """
    kinds = {r["kind"]: r["relative"] for r in _kinds(rows)}
    mlp, attention, embeddings = (kinds.get(k, math.nan) for k in ("mlp", "attention", "embeddings"))
    layers = sorted({r["layer"] for r in rows if r["layer"] is not None})
    by_layer = {
        n: _sum([r for r in rows if r["layer"] == n and r["kind"] == "attention"])["relative"] for n in layers
    }
    lower = [by_layer[n] for n in layers[: len(layers) // 2]]
    upper = [by_layer[n] for n in layers[len(layers) // 2 :]]
    parts = {
        "mlp_most": mlp > attention and mlp > embeddings,
        "embeddings_least": embeddings < attention and embeddings < mlp,
        "attention_upper": bool(lower) and sum(upper) / len(upper) > sum(lower) / len(lower),
    }
    holds = all(parts.values())
    order = sorted(((v, k) for k, v in kinds.items() if not math.isnan(v)), reverse=True)
    ranked = ", ".join(f"{k} {100 * v:.2g} %" for v, k in order)
    where = "more in the upper half of the layers" if parts["attention_upper"] else "not more in the upper half"
    verdict = "holds here" if holds else "does not hold here"
    return {
        "holds": holds,
        **parts,
        "text": (
            "That MLPs change most, attention moderately in middle and upper layers and embeddings little "
            f"{verdict}: relative changes are {ranked}; attention changes {where}."
        ),
    }
