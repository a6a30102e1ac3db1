"""What is true in one town, and what people wrongly believe there."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tastemaker.town import text
from tastemaker.town.text import Attribute

Key = tuple[str, str]
"""(place, attribute name)"""


@dataclass(frozen=True, slots=True)
class Facts:
    """The record of the town: one value for every place and attribute."""

    places: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    true: Mapping[Key, str]
    rumours: Mapping[Key, str]
    """Wrong values that are widely believed, for some of the facts."""

    @classmethod
    def draw(cls, seed: int, places: int, attributes: int, values: int, rumours: float = 0.25) -> Facts:
        """The facts of town `seed`; a share `rumours` of them has a rumour."""
        rng = random.Random(f"town {seed} facts")
        chosen = tuple(
            Attribute(a.name, a.values[:values], a.statement, a.short, a.questions)
            for a in text.ATTRIBUTES[:attributes]
        )
        names = text.PLACES[:places]
        true = {(p, a.name): rng.choice(a.values) for p in names for a in chosen}
        by_name = {a.name: a for a in chosen}
        believed = {
            key: rng.choice([v for v in by_name[key[1]].values if v != true[key]])
            for key in rng.sample(sorted(true), max(1, round(rumours * len(true))))
        }
        return cls(names, chosen, MappingProxyType(true), MappingProxyType(believed))

    def attribute(self, name: str) -> Attribute:
        """The attribute of that name, recorded or not."""
        for attribute in (*self.attributes, *text.UNRECORDED):
            if attribute.name == name:
                return attribute
        raise KeyError(name)

    def holds(self, place: str, attribute: str, value: str) -> bool:
        """Whether the record says so. What is not recorded does not hold."""
        return self.true.get((place, attribute)) == value

    def wrong_values(self, place: str, attribute: str) -> list[str]:
        """The values that this fact does not have, the rumour included."""
        values = self.attribute(attribute).values
        return [v for v in values if not self.holds(place, attribute, v)]
