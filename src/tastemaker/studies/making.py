"""Stages of a recipe that make something other than a training run: texts of the town, samples, labels,
revisions, merged models.

A maker is a dataclass whose fields are its settings. It writes what it makes into its folder under the names in
`gives`, of which the first is what a later stage gets that names the stage alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, cast

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from tastemaker.config.check import coerce_fields, complain
from tastemaker.data import read_records, tokenise, write_records
from tastemaker.feedback.constitution import Draft, Revised, load_constitution, revise
from tastemaker.feedback.judge import Answers, Judge, Spent
from tastemaker.feedback.labellers import chosen_first, mix
from tastemaker.models import build_roles, merged, save_model, word_model
from tastemaker.models.merge import merge_adapters
from tastemaker.rollout import LocalGenerator
from tastemaker.runs.files import append, write_atomic
from tastemaker.runs.lines import read_lines, to_line
from tastemaker.studies.labelling import labellers
from tastemaker.studies.rounds.stages import MakeJoin, MakePart, MakePeople
from tastemaker.studies.start import fit_stage
from tastemaker.town import Town, TownSpec
from tastemaker.training.judging import JudgeSettings, judge_model
from tastemaker.types import Comparison, Question, Record, Sampling, TastemakerError

Report = Callable[[int, int, Mapping[str, float]], None]
CHUNK = 256
"""Prompts answered together."""


class Maker(Protocol):
    """One kind of stage."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    """Inputs it takes; all are wanted."""
    gives: ClassVar[tuple[str, ...]]
    """What it leaves in its folder."""

    def make(self, folder: Path, inputs: Mapping[str, Any], report: Report) -> None:
        """Makes it. Called again on the same folder where it was interrupted."""
        ...


@dataclass(frozen=True, kw_only=True)
class MakeTown:
    """The embedded town: a base model that has read its books, demonstrations of a sloppy crowd, and
    prompts.
    """

    name: ClassVar[str] = "town"
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ("base", "demonstrations.jsonl", "prompts.jsonl")

    seed: NonNegativeInt = 0
    """Which town."""
    documents: PositiveInt = 12_000
    """Documents that the base model reads."""
    demonstrations: PositiveInt = 3000
    """Answers to imitate."""
    prompts: PositiveInt = 1024
    """Prompts for sampling, of the split `train`."""
    kinds: tuple[str, ...] = ()
    """Kinds of prompts to keep (fact, style, unsafe, ...); none: all."""

    def __post_init__(self) -> None:
        _check(self)

    def make(self, folder: Path, inputs: Mapping[str, Any], report: Report) -> None:
        """Raises TastemakerError for kinds that there are none of."""
        spec = TownSpec()
        town = Town(self.seed, spec)
        size = spec.model
        shape = {"hidden": size.hidden, "layers": size.layers, "heads": size.heads, "max_length": 256}
        model = word_model(town.vocabulary(), seed=self.seed, **shape)
        documents = tokenise(town.documents(self.documents), model[1], control_tokens="token")
        stage = replace(spec.pretrain, examples=self.documents)
        fit_stage(stage, model, documents, folder / "base", self.seed, report)
        write_records(folder / "demonstrations.jsonl", town.demonstrations(self.demonstrations))
        write_records(folder / "prompts.jsonl", town_prompts(town, self.prompts, self.kinds, seed=1000))


@dataclass(frozen=True, kw_only=True)
class MakePrompts:
    """More prompts of the town, of some kinds alone: a domain."""

    name: ClassVar[str] = "town_prompts"
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ("prompts.jsonl",)

    seed: NonNegativeInt = 0
    """Which town."""
    prompts: PositiveInt = 512
    """How many, of the split `train`."""
    kinds: tuple[str, ...] = ()
    """Kinds of prompts to keep (fact, style, unsafe, ...); none: all."""

    def __post_init__(self) -> None:
        _check(self)

    def make(self, folder: Path, inputs: Mapping[str, Any], report: Report) -> None:
        """Raises TastemakerError for kinds that there are none of."""
        found = town_prompts(Town(self.seed), self.prompts, self.kinds, seed=2000)
        write_records(folder / "prompts.jsonl", found)


def town_prompts(town: Town, number: int, kinds: Sequence[str] = (), *, seed: int = 0) -> list[Question]:
    """So many training prompts of a town, of these kinds alone, as files can hold them.

    Raises:
        TastemakerError: there are no prompts of these kinds.
    """
    drawn: list[Question] = []
    for batch in range(200):
        for question in town.prompts(512, "train", seed=seed + batch):
            if not kinds or question.columns["kind"] in kinds:
                row = f"{len(drawn)}"
                drawn.append(
                    Question(prompt=question.prompt, columns={"kind": question.columns["kind"]}, row=row)
                )
                if len(drawn) == number:
                    return drawn
        if batch and not drawn:
            break
    raise TastemakerError(f"town: only {len(drawn)} prompts of the kinds {', '.join(kinds)} were found")


@dataclass(frozen=True, kw_only=True)
class MakeSamples:
    """Several different responses of a policy to each prompt, not yet ordered."""

    name: ClassVar[str] = "respond"
    needs: ClassVar[tuple[str, ...]] = ("model", "data")
    gives: ClassVar[tuple[str, ...]] = ("responses.jsonl",)

    seed: NonNegativeInt = 0
    """Of the sampling."""
    n: PositiveInt = 2
    """Responses to a prompt; prompts whose responses are all the same are left out."""
    temperature: NonNegativeFloat = 1.0
    """Of the policy."""
    response_length: PositiveInt = 48
    """Most tokens of a response."""
    keep_cut: bool = False
    """Keep responses that were cut at that length; else only those that came to their own end."""
    limit: PositiveInt | None = None
    """Prompts taken; none: all."""
    most: PositiveInt | None = None
    """Prompts kept with their responses, at most; none: all."""

    def __post_init__(self) -> None:
        _check(self)

    def make(self, folder: Path, inputs: Mapping[str, Any], report: Report) -> None:
        """Raises TastemakerError where nothing is left. What was drawn before a break is not drawn again."""
        drawn = draw(
            inputs["model"],
            inputs["data"],
            Sampling(max_new_tokens=self.response_length, n=self.n, temperature=self.temperature),
            seed=self.seed,
            keep_cut=self.keep_cut,
            limit=self.limit,
            report=report,
            kept=folder / "drawn.jsonl",
            enough=lambda drawn: self.most is not None and sum(map(self._whole, drawn)) >= self.most,
        )
        groups = [
            Comparison(prompt=q.prompt, responses=tuple(texts), ranking=(0,) * len(texts), row=str(i))
            for i, (q, texts) in enumerate(drawn)
            if self._whole((q, texts))
        ][: self.most]
        if not groups:
            raise TastemakerError(
                f"respond: none of {len(drawn)} prompts got {self.n} different whole responses; train the "
                "policy more, raise response_length, or let cut ones be kept with keep_cut"
            )
        write_records(folder / "responses.jsonl", groups)

    def _whole(self, drawn: Drawn) -> bool:
        """Whether a prompt got all its responses, no two of them alike."""
        return len(drawn[1]) == self.n == len(set(drawn[1]))


Drawn = tuple[Record, list[str]]
"""A prompt and what a policy wrote."""


def draw(
    model: Any,
    data: Any,
    sampling: Sampling,
    *,
    seed: int,
    keep_cut: bool = False,
    limit: int | None = None,
    report: Report | None = None,
    kept: Path | None = None,
    enough: Callable[[Sequence[Drawn]], bool] = lambda drawn: False,
) -> list[Drawn]:
    """Responses of a policy as texts that files can hold: empty ones, cut ones unless `keep_cut`, and those
    with marks of the chat form are left out. `kept` is a file that remembers them over a break; `enough` ends
    the work early.
    """
    questions = read_records(data, Question, limit=limit)
    models = build_roles(("policy",), (), policy=getattr(model, "folder", model))
    tokenizer: Any = models.tokenizer
    special = set(tokenizer.all_special_tokens)
    tokens = tokenise(questions, tokenizer)
    generator = LocalGenerator(models, tokenizer)
    drawn = _drawn_before(kept, tokens.records) if kept is not None else []
    for start in range(len(drawn), len(tokens), CHUNK):
        if enough(drawn):
            break
        chosen = range(start, min(start + CHUNK, len(tokens)))
        sampled = generator.generate(tokens.batch(chosen), sampling, seed=seed)
        for record, tree in zip([tokens.records[i] for i in chosen], sampled.trees, strict=True):
            texts: list[str] = []
            for ids, ended in zip(tree.responses, tree.ended, strict=True):
                text = str(tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=False))
                if text.strip() and (ended or keep_cut) and not any(mark in text for mark in special):
                    texts.append(text)
            drawn.append((record, texts))
        if kept is not None:
            append(kept, b"".join(to_line({"texts": texts}) for _, texts in drawn[start:]))
        if report is not None:
            report(len(drawn), len(tokens), {})
    return drawn


def _drawn_before(kept: Path, records: Sequence[Record]) -> list[Drawn]:
    """What a break left, in whole chunks; the file is cut to them."""
    lines = read_lines(kept)
    if len(lines) < len(records):
        lines = lines[: len(lines) // CHUNK * CHUNK]
    if kept.exists():
        write_atomic(kept, b"".join(to_line(line) for line in lines))
    texts = [cast("list[str]", line["texts"]) for line in lines]
    return list(zip(records, texts, strict=False))


@dataclass(frozen=True, kw_only=True)
class MakeLabels(JudgeSettings):
    """Preference data: responses ordered by a judge, or by several labellers mixed by weight."""

    name: ClassVar[str] = "judge"
    needs: ClassVar[tuple[str, ...]] = ("data",)
    gives: ClassVar[tuple[str, ...]] = ("pairs.jsonl", "summary.json")

    labellers: tuple[str, ...] = ()
    """WHO=WEIGHT,...: panel:NAME, a file of people's labels, or judges; none: the judge alone."""

    def __post_init__(self) -> None:
        _check(self)

    def make(self, folder: Path, inputs: Mapping[str, Any], report: Report) -> None:
        """Raises TastemakerError as a judge does; what it has answered is not asked again."""
        records = [r for r in read_records(inputs["data"], Comparison).records if isinstance(r, Comparison)]
        responses = max(len(r.responses) for r in records)
        answers = Answers(folder / "answers.jsonl")
        shares = labellers(self.labellers or (self.judge,), self, responses=responses, answers=answers)
        labels = [chosen_first(label) for label in mix(shares, records, seed=self.seed)]
        if not labels:
            raise TastemakerError(f"judge: no verdict could be read on any of {len(records)} records")
        write_records(folder / "pairs.jsonl", labels)
        summary: dict[str, Any] = {
            "records": len(records),
            "labels": len(labels),
            "ties": sum(len(set(c.ranking)) == 1 for c in labels),
            "by": {
                name: sum(c.annotator == name for c in labels) for name in sorted({c.annotator for c in labels})
            },
        }
        for labeller, _ in shares:
            if isinstance(labeller, Judge):
                summary[labeller.name] = {f.name: getattr(labeller.spent, f.name) for f in fields(Spent)}
        write_atomic(folder / "summary.json", json.dumps(summary, indent=1).encode() + b"\n")
        report(len(records), len(records), {})


@dataclass(frozen=True, kw_only=True)
class MakeRevisions(JudgeSettings):
    """Constitutional AI's first half: a policy's answers criticised and rewritten by principles, to be
    imitated.
    """

    name: ClassVar[str] = "revise"
    needs: ClassVar[tuple[str, ...]] = ("model", "data")
    gives: ClassVar[tuple[str, ...]] = ("demonstrations.jsonl", "pairs.jsonl", "revisions.jsonl")

    rounds: PositiveInt = 2
    """Criticisms and revisions of each answer, each by a principle drawn anew."""
    response_length: PositiveInt = 48
    """Most tokens of a first answer."""
    policy_temperature: NonNegativeFloat = 1.0
    """Of the policy whose answers are criticised."""
    keep_cut: bool = False
    """Criticise answers too that were cut at that length."""

    def __post_init__(self) -> None:
        _check(self)

    def make(self, folder: Path, inputs: Mapping[str, Any], report: Report) -> None:
        """Raises TastemakerError as a judge does; what it has answered is not asked again."""
        sampling = Sampling(max_new_tokens=self.response_length, temperature=self.policy_temperature)
        drawn = draw(
            inputs["model"], inputs["data"], sampling, seed=self.seed, keep_cut=self.keep_cut, report=report
        )
        drafts = [Draft(q.prompt, texts[0], str(i)) for i, (q, texts) in enumerate(drawn) if texts]
        revised = revise(
            judge_model(self),
            load_constitution(self.principles or "default"),
            drafts,
            rounds=self.rounds,
            seed=self.seed,
            answers=Answers(folder / "answers.jsonl"),
            progress=lambda done, total: report(done, total, {}),
        )
        write_revisions(folder, revised)


def write_revisions(folder: Path, revised: Sequence[Revised]) -> None:
    """Demonstrations, pairs (last revision over first answer, where they differ), and everything that was said.

    Raises:
        TastemakerError: nothing was revised.
    """
    if not revised:
        raise TastemakerError("revise: there is no answer to criticise; the policy gave no whole one")
    write_atomic(folder / "revisions.jsonl", "".join(r.to_line() for r in revised).encode())
    write_records(folder / "demonstrations.jsonl", [r.demonstration() for r in revised])
    pairs = [
        Comparison(
            prompt=r.prompt,
            responses=(r.last, r.first),
            source=f"revision, principles {', '.join(done.principle for done in r.rounds)}",
            annotator=r.critic,
            row=r.row,
        )
        for r in revised
        if r.last.strip() != r.first.strip()
    ]
    write_records(folder / "pairs.jsonl", pairs)


@dataclass(frozen=True, kw_only=True)
class MakeMerge:
    """One full model out of several adapters over one base, or out of one."""

    name: ClassVar[str] = "merge"
    needs: ClassVar[tuple[str, ...]] = ("adapters",)
    gives: ClassVar[tuple[str, ...]] = ("model",)

    how: Literal["stack", "linear", "ties"] = "linear"
    """stack: all updates at work at once; linear: their weighted mean; ties: TIES (Yadav et al. 2023)."""
    weights: tuple[float, ...] = ()
    """Of the adapters; none: 1 each (stack, ties), 1/K each (linear)."""
    density: float = 0.5
    """TIES: share of each update's entries that is kept."""

    def __post_init__(self) -> None:
        _check(self)

    def make(self, folder: Path, inputs: Mapping[str, Any], report: Report) -> None:
        """Raises TastemakerError for adapters that do not belong together."""
        sources = [getattr(a, "folder", a) for a in inputs["adapters"]]
        if len(sources) == 1:
            found = merged(sources[0])
        else:
            weights = self.weights or None
            found = merge_adapters(sources, how=self.how, weights=weights, density=self.density)
        save_model(found.model, found.tokenizer, folder / "model", overwrite=True)


MAKERS: Mapping[str, type[Any]] = {
    maker.name: maker
    for maker in (
        *(MakeTown, MakePrompts, MakePart, MakeSamples, MakeLabels),
        *(MakePeople, MakeJoin, MakeRevisions, MakeMerge),
    )
}


def _check(settings: object) -> None:
    complain(str(getattr(settings, "name", "settings")), coerce_fields(settings))
