"""Which preferences cannot all be true: contradictions, disagreements between annotators, and cycles."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from tastemaker.data.measures import ordered_pairs
from tastemaker.types import Comparison


@dataclass(frozen=True)
class Edge:
    """One record says that one response is better than another."""

    better: int
    worse: int
    record: int
    who: str


@dataclass(frozen=True)
class Cycle:
    """Responses of one prompt that are preferred in a ring: the first over the second, ..., the last over the
    first.
    """

    records: tuple[int, ...]
    """A record for each of its preferences."""
    size: int
    who: str
    """The annotator whose labels alone make this ring; "" where it takes several or nobody is named."""


@dataclass
class Preferences:
    """Every ordered pair that was said, by prompt and objective."""

    edges: list[Edge] = field(default_factory=list[Edge])
    opposed: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """(record, an earlier one that says the opposite), of one annotator or of nobody named."""
    disputed: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """The same, of two annotators who are both known to be others."""
    _nodes: dict[bytes, int] = field(default_factory=dict[bytes, int])
    _claims: dict[tuple[int, int], list[Edge]] = field(default_factory=dict[tuple[int, int], list[Edge]])

    def add(self, number: int, record: Comparison, prompt: bytes, said: Sequence[bytes], who: str) -> None:
        """One record beside those before it. `who` tells annotators apart; "" is somebody unknown."""
        topic = prompt + record.objective.encode()
        nodes = [self._nodes.setdefault(topic + text, len(self._nodes)) for text in said]
        against: list[Edge] = []
        for i, j in ordered_pairs(record.ranking):
            edge = Edge(nodes[i], nodes[j], number, who)
            if edge.better == edge.worse:
                continue
            self.edges.append(edge)
            earlier = self._claims.setdefault((min(nodes[i], nodes[j]), max(nodes[i], nodes[j])), [])
            against += [e for e in earlier if e.better == edge.worse]
            # one claim a side and annotator is enough to be held against
            if not any(e.better == edge.better and e.who == who for e in earlier):
                earlier.append(edge)
        own = next((e for e in against if not e.who or not who or e.who == who), None)
        if own is not None:
            self.opposed.append((number, own.record))
        elif against:
            self.disputed.append((number, against[0].record))

    def cycles(self) -> list[Cycle]:
        """A shortest ring of each group of responses that no order can satisfy, by majority over all labels."""
        found = rings(self.edges)
        named = {e.who for e in self.edges if e.who}
        alone: dict[frozenset[int], str] = {}
        if len(named) > 1:
            by_whom: dict[str, list[Edge]] = {}
            for edge in self.edges:
                if edge.who:
                    by_whom.setdefault(edge.who, []).append(edge)
            for who, edges in by_whom.items():
                for ring in rings(edges):
                    if alone.setdefault(frozenset(e.better for e in ring), who) == who:
                        found.append(ring)
        made: dict[frozenset[int], Cycle] = {}
        for ring in found:
            nodes = frozenset(e.better for e in ring)
            single = next(iter(named)) if len(named) == 1 and all(e.who for e in ring) else ""
            made.setdefault(
                nodes, Cycle(tuple(e.record for e in ring), len(ring), alone.get(nodes, "") or single)
            )
        return list(made.values())


def rings(edges: Sequence[Edge]) -> list[list[Edge]]:
    """A shortest ring (three edges or more) of each strongly connected group of the majority's preferences."""
    counts: dict[tuple[int, int], int] = {}
    first: dict[tuple[int, int], Edge] = {}
    for edge in edges:
        pair = (edge.better, edge.worse)
        counts[pair] = counts.get(pair, 0) + 1
        first.setdefault(pair, edge)
    won = [pair for pair, n in counts.items() if n > counts.get((pair[1], pair[0]), 0)]
    if len(won) < 3:
        return []
    numbers = {node: k for k, node in enumerate(dict.fromkeys(node for pair in won for node in pair))}
    rows = np.array([numbers[a] for a, _ in won])
    columns = np.array([numbers[b] for _, b in won])
    graph = csr_array((np.ones(len(won), np.int8), (rows, columns)), shape=(len(numbers), len(numbers)))
    _, group = connected_components(graph, connection="strong")
    sizes = np.bincount(group)
    inside: dict[int, dict[int, list[int]]] = {}
    for a, b in won:
        own = int(group[numbers[a]])
        if sizes[own] > 2 and own == int(group[numbers[b]]):
            inside.setdefault(own, {}).setdefault(a, []).append(b)
    return [
        [first[pair] for pair in _shortest(below)] for _, below in sorted(inside.items(), key=lambda x: x[0])
    ]


def _shortest(below: dict[int, list[int]]) -> list[tuple[int, int]]:
    """A shortest ring of a strongly connected graph, as its edges; the first node found of those as short."""
    best: list[int] = []
    for start in below:
        came: dict[int, int] = {}
        queue = deque([start])
        while queue and start not in came:
            node = queue.popleft()
            for after in below.get(node, ()):
                if after not in came:
                    came[after] = node
                    queue.append(after)
        ring, node = [start], came[start]
        while node != start:
            ring.append(node)
            node = came[node]
        if not best or len(ring) < len(best):
            best = ring[::-1]
        if len(best) == 3:
            break
    return list(zip(best, [*best[1:], best[0]], strict=True))
