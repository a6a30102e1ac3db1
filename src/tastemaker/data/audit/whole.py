"""The audit of a preference set: findings with their rows, what chosen responses have in common, who labelled.

Memory: beside the records themselves 512 bytes a record and prompt for near copies, some digests, and the rows
that something was found in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tastemaker.data.audit.collect import EXCERPTS, Collected, Given, Noted, excerpt
from tastemaker.data.audit.facts import facts_of
from tastemaker.data.audit.findings import BY_NAME, Finding, Hit
from tastemaker.data.audit.held_out import HeldOut, leaked, near_words
from tastemaker.data.audit.parts import SPLIT, Part, Place, home_split
from tastemaker.data.audit.said import characters, prompt_id
from tastemaker.data.convert import EMPTY, IDENTICAL
from tastemaker.data.prompts import NO_SHARED_PROMPT
from tastemaker.data.rendering import responses_of
from tastemaker.errors import TastemakerError
from tastemaker.types import Comparison, Record

SIMILARITY = 0.8
"""Word triples in common, over all that either has, from which on two texts are near copies."""


@dataclass(frozen=True)
class PreferenceAudit:
    """What is wrong with a preference set, and what it is like."""

    findings: tuple[Finding, ...]
    """Of every kind that applies, those that were not made too, with a count of 0."""
    facts: Mapping[str, Any]
    """Plain values: sources, kind, rows, records, pairs, prompts, lengths, bias, coverage, languages, people,
    groups, near.
    """

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name. Raises KeyError where it does not apply."""
        for finding in self.findings:
            if finding.kind.name == name:
                return finding
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, every row of every finding among them."""
        return {**self.facts, "findings": [f.to_json() for f in self.findings]}


def audit_preferences(
    parts: Sequence[Part],
    held_out: Sequence[Part] = (),
    *,
    similarity: float = SIMILARITY,
    columns: Sequence[str] = (),
    groups: Mapping[str, Mapping[str, str]] | None = None,
) -> PreferenceAudit:
    """Audits the records of `parts` as one set, and what `held_out` shares with them.

    `columns` are columns of the rows (see `read_part`) that say which group a label's annotator belongs to;
    `groups` says the same by annotator. Where rows have a column `split` with several values, its other values
    are held out from "train".

    Raises TastemakerError where the parts hold records of different kinds, no annotator of `groups` is in the
    data, no row has one of `columns`, or `similarity` is too low to be searched for.
    """
    kind = _one_kind([*parts, *held_out])
    try:
        found = Collected(similarity)
    except ValueError as error:
        raise TastemakerError(f"near: {error}.") from error
    home = home_split(parts)
    inside = HeldOut("other splits")
    known: set[str] = set()
    row = 0
    for part in parts:
        for number, records in part.rows():
            row += 1
            for k, record in enumerate(records):
                own = part.of(number, k)
                who = record.annotator if isinstance(record, Comparison) else ""
                labelled = {name: own[name] for name in columns if name in own}
                if groups is not None and who in groups:
                    labelled |= groups[who]
                known |= labelled.keys()
                place = part.place(number, record)
                found.add(record, Given(place, row, len(records) > 1, labelled))
                if home and own.get(SPLIT, home) != home:
                    inside.add(record, place)
        _at_dropped(found, part)
    _check_groups(columns, groups, known)
    # What is in another split is no part of the home split: its prompts are held against those of home alone.
    splits = [inside] if home else []
    rest = [HeldOut.of(part) for part in held_out]
    apart = {id(record) for record in inside.records}
    findings = [
        *_of_rows(found, parts),
        *_of_records(found),
        *leaked(found, splits, apart),
        *leaked(found, rest, set()),
        *_of_texts(found),
    ]
    return PreferenceAudit(tuple(_joined(findings)), facts_of(found, parts, held_out, kind, sorted(known)))


def _one_kind(parts: Sequence[Part]) -> type:
    kinds = {part.dataset.kind: part.dataset.source for part in reversed(parts)}
    if len(kinds) > 1:
        told = ", ".join(f"{source} holds {kind.__name__}" for kind, source in kinds.items())
        raise TastemakerError(f"{told}: audit them apart.")
    return next(iter(kinds))


def _check_groups(columns: Sequence[str], groups: Mapping[str, Any] | None, known: set[str]) -> None:
    missing = [name for name in columns if name not in known]
    if missing:
        raise TastemakerError(f"group: no usable row has the column {', '.join(missing)}.")
    if groups and not known - set(columns):
        some = ", ".join(list(groups)[:5])
        raise TastemakerError(
            f"groups: none of its annotators ({some}, ...) labelled these data. Names must be as in the column "
            "`annotator`."
        )


def _at_dropped(found: Collected, part: Part) -> None:
    """Lengths and control text of rows that reading left out, as far as they could be read."""
    for dropped in part.dataset.dropped:
        if dropped.record is not None and isinstance(dropped.record, part.dataset.kind):
            found.look.at_text(
                dropped.record, f"{part.dataset.source}:{dropped.row}", prompt_id(dropped.record)
            )


# ------------------------------------------------------------------------------------------- findings


def _of_rows(found: Collected, parts: Sequence[Part]) -> list[Finding]:
    """Rows that reading left out."""
    hits: dict[str, list[Hit]] = {
        name: [] for name in ("unreadable", "empty", "identical", "no_shared_prompt", "unusable")
    }
    sides: Counter[str] = Counter()
    names = {EMPTY: "empty", IDENTICAL: "identical", NO_SHARED_PROMPT: "no_shared_prompt"}
    for part in parts:
        source = part.dataset.source
        for bad in part.dataset.skipped:
            detail = f"{bad.field}: {bad.reason}" if bad.field else bad.reason
            hits["unreadable"].append(Hit(Place(source, bad.number, ""), detail))
        for dropped in part.dataset.dropped:
            name = names.get(dropped.reason, "unusable")
            own = "" if dropped.row == str(dropped.number) else dropped.row
            detail = dropped.reason if name == "unusable" else ""
            if name == "empty" and dropped.record is not None:
                empty = _empty_sides(dropped.record)
                sides.update(empty)
                detail = " and ".join(empty)
            told = dropped.record is not None and len(hits[name]) < EXCERPTS
            begins = excerpt(dropped.record) if told and dropped.record is not None else ""
            hits[name].append(Hit(Place(source, dropped.number, own), detail, None, begins))
    rows = sum(part.dataset.rows for part in parts)
    asides = {"empty": ", ".join(f"{side} {n}" for side, n in sides.items())}
    return [
        Finding(BY_NAME[name], len(own), rows, "rows", own, asides.get(name, "")) for name, own in hits.items()
    ]


def _empty_sides(record: Record) -> list[str]:
    responses = responses_of(record)
    if not isinstance(record, Comparison) or len(set(record.ranking)) == 1:
        return ["response"] if any(characters(r) == 0 for r in responses) else []
    best = min(record.ranking)
    empty = [
        "chosen" if rank == best else "rejected"
        for rank, response in zip(record.ranking, responses, strict=True)
        if characters(response) == 0
    ]
    return list(dict.fromkeys(empty))


def _of_records(found: Collected) -> list[Finding]:
    """Records beside each other."""
    n = len(found.records)
    look, preferences = found.look, found.preferences
    comparisons = bool(preferences.edges)
    duplicates = [Noted(int(row), "", int(other)) for row, other in look.duplicates.rows]
    opposed = (
        [Noted(a, "", b) for a, b in preferences.opposed]
        if comparisons
        else [Noted(int(row), "", int(other)) for row, other in look.contradictory.rows]
    )
    near = [
        Noted(found.sketched[later], f"{alike:.0%} alike", found.sketched[earlier])
        for later, earlier, alike in found.near_records.links(found.alike_records)
    ]
    made = [
        _finding(found, "duplicates", duplicates, n, "records"),
        _finding(found, "contradictory", opposed, n, "records"),
    ]
    if comparisons:
        disputed = [Noted(a, "", b) for a, b in preferences.disputed]
        made += [_cycles(found), _finding(found, "disputed", disputed, n, "records")]
    made.append(_finding(found, "near_duplicates", near, n, "records", how=near_words(found)))
    return made


def _cycles(found: Collected) -> Finding:
    """Rings are counted by prompt; their rows are told one after the other."""
    cycles = found.preferences.cycles()
    prompts = {prompt_id(found.records[c.records[0]]) for c in cycles}
    noted: list[Noted] = []
    for k, cycle in enumerate(cycles, start=1):
        by = f" by {cycle.who} alone" if cycle.who else ""
        noted += [
            Noted(record, f"ring {k}, preference {i} of {cycle.size}{by}")
            for i, record in enumerate(cycle.records, start=1)
        ]
    alone = sum(bool(c.who) for c in cycles)
    aside = f"{len(cycles)} rings, {alone} of them by one annotator alone" if alone else ""
    made = _finding(found, "cycles", noted, len(found.prompt_records), "prompts", aside=aside)
    return Finding(made.kind, len(prompts), made.of, made.unit, made.hits, made.aside)


def _of_texts(found: Collected) -> list[Finding]:
    """Texts by themselves."""
    n, look = len(found.records), found.look
    compared = sum(isinstance(r, Comparison) and len(set(r.ranking)) > 1 for r in found.records)
    cut = ", ".join(f"{side} {count}" for side, count in sorted(found.cut_sides.items()))
    control = ", ".join(f"{text} x{k}" for text, k in look.control_texts.most_common(5))

    def named(rows: Iterable[str]) -> list[Noted]:
        return [Noted(int(row)) for row in rows if row.isdecimal()]

    made = [_finding(found, "alike", found.alike, compared, "pairs")] if compared else []
    if found.responses:
        made += [
            _finding(found, "cut_off", found.cut, found.responses, "responses", aside=cut),
            _finding(found, "language", found.language, found.responses, "responses"),
            _finding(found, "mixed", found.mixed, found.responses, "responses"),
            _finding(found, "damaged", found.damaged, found.responses, "responses"),
            _finding(found, "echo", named(look.repeats_prompt.rows), n, "records"),
        ]
    return [
        *made,
        _finding(found, "control", named(look.control.rows), n, "records", aside=control),
        _finding(found, "empty_prompt", named(look.empty_prompts.rows), n, "records"),
    ]


def _finding(
    found: Collected,
    name: str,
    noted: Sequence[Noted],
    of: int,
    unit: str,
    *,
    aside: str = "",
    how: str = "",
) -> Finding:
    kind = BY_NAME[name]
    hits = [
        Hit(
            found.places[note.record],
            note.detail,
            None if note.other is None else found.places[note.other],
            excerpt(found.records[note.record]) if k < EXCERPTS else "",
        )
        for k, note in enumerate(noted)
    ]
    return Finding(kind, len(noted), of, unit, hits, aside, kind.how.format(near=how))


def _joined(findings: Iterable[Finding]) -> list[Finding]:
    """One finding of each kind, in the order in which they are told."""
    by: dict[str, list[Finding]] = {}
    for finding in findings:
        by.setdefault(finding.kind.name, []).append(finding)
    made: list[Finding] = []
    for name, kind in BY_NAME.items():
        own = by.get(name, [])
        if own:
            hits = [hit for f in own for hit in f.hits]
            aside = ", ".join(f.aside for f in own if f.aside)
            count, of = sum(f.count for f in own), sum(f.of for f in own)
            made.append(Finding(kind, count, of, own[0].unit, hits, aside, own[0].how))
    return made
