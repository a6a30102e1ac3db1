"""Stages that online rounds add to chains: a part of the prompts, labels of people, labels put together."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import NonNegativeInt, PositiveInt

from tastemaker.config.check import coerce_fields, complain
from tastemaker.data import prompt_key, read_records, write_records
from tastemaker.runs import MADE_FILE, Run, plain
from tastemaker.runs.files import write_atomic
from tastemaker.runs.lines import read_object
from tastemaker.studies.tasks import Report
from tastemaker.types import Comparison, Question, Record, TastemakerError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from tastemaker.feedback.items import Written
    from tastemaker.feedback.ledger import Writer
    from tastemaker.feedback.store import Store
    from tastemaker.feedback.tables import Project


@dataclass(frozen=True, kw_only=True)
class MakePart:
    """A part of the prompts, each of them once, in an order drawn from the seed: files are often sorted."""

    name: ClassVar[str] = "part"
    needs: ClassVar[tuple[str, ...]] = ("data",)
    gives: ClassVar[tuple[str, ...]] = ("prompts.jsonl",)

    seed: NonNegativeInt = 0
    """Of the order."""
    skip: NonNegativeInt = 0
    """Different prompts at the head of that order that are left to others."""
    limit: PositiveInt | None = None
    """Prompts taken after those; none: the rest."""

    def __post_init__(self) -> None:
        complain(self.name, coerce_fields(self))

    def make(self, folder: Path, inputs: Mapping[str, Any], report: Report) -> None:
        """Raises TastemakerError where there are not so many different prompts."""
        found = different_prompts(inputs["data"])
        random.Random(self.seed).shuffle(found)
        wanted = self.skip + (self.limit or 1)
        if len(found) < wanted:
            raise TastemakerError(
                f"{inputs['data']}: holds {len(found)} different prompts, and {wanted} are needed up to here. "
                "Bring more, take fewer a round, or ask the same in every round (same_prompts: true)"
            )
        end = None if self.limit is None else wanted
        write_records(folder / self.gives[0], found[self.skip : end])


def different_prompts(data: str) -> list[Record]:
    """The first record of every prompt. Raises TastemakerError as `read_records` does."""
    found: dict[str, Record] = {}
    for record in read_records(data, Question).records:
        found.setdefault(prompt_key(record), record)
    return list(found.values())


@dataclass(frozen=True, kw_only=True)
class MakeJoin:
    """Comparisons of several files in one; their rows say which stage each came from."""

    name: ClassVar[str] = "join"
    needs: ClassVar[tuple[str, ...]] = ("data",)
    gives: ClassVar[tuple[str, ...]] = ("pairs.jsonl",)

    def make(self, folder: Path, inputs: Mapping[str, Any], report: Report) -> None:
        """Raises TastemakerError as `read_records` does."""
        sources: Sequence[str] = inputs["data"] if isinstance(inputs["data"], list) else [inputs["data"]]
        records = [
            replace(record, row=f"{Path(source).parent.name}/{record.row or i}")
            for source in sources
            for i, record in enumerate(read_records(source, Comparison).records)
        ]
        write_records(folder / self.gives[0], records)


# -------------------------------------------------------------------------------------------- people


class LabelsMissing(TastemakerError):
    """People have not given all the labels yet; nothing is wrong."""

    def __init__(self, store: str, project: str, items: Sequence[int], wanted: int, stage: str) -> None:
        self.store, self.project, self.items, self.wanted, self.stage = store, project, items, wanted, stage
        super().__init__(f"{stage}: {self.told()}")

    def done(self) -> int:
        """Items that have all the labels they are to get."""
        from tastemaker.feedback.store import Store

        store = Store.open(self.store)
        try:
            with store.reading() as session:
                return _labelled(session, self.items)
        finally:
            store.close()

    def told(self) -> str:
        """How far it is, and what to do."""
        where = "" if self.store == "labels.db" else f" --labels {self.store}"
        return (
            f"{self.done()} of {self.wanted} items of the project {self.project} are labelled. Label at "
            f"http://127.0.0.1:8741/label/{self.project} while `tastemaker studio{where}` runs; the same "
            "command goes on"
        )


@dataclass(frozen=True, kw_only=True)
class MakePeople:
    """Labels of people: responses go into a project of the label store, and come back when people have labelled
    them in the studio.
    """

    name: ClassVar[str] = "people"
    needs: ClassVar[tuple[str, ...]] = ("data",)
    gives: ClassVar[tuple[str, ...]] = ("pairs.jsonl", "summary.json")

    project: str = "rounds"
    """The project in which people find the responses; made where there is none."""
    store: str = "labels.db"
    """The labels: a file, or postgresql://user@host/name."""
    kind: Literal["pair", "preference", "ranking"] = "pair"
    """pair: which is better. preference: the same in five levels. ranking: of all."""
    overlap: PositiveInt = 1
    """People per item."""
    wanted: PositiveInt | None = None
    """Items that are to have the labels of `overlap` people; none: all."""
    weighted: bool = False
    """Weigh labels by Dawid and Skene's reliability of their annotators; needs an overlap."""
    guideline: str = ""
    """What people are told."""

    def __post_init__(self) -> None:
        complain(self.name, coerce_fields(self))
        if self.weighted and self.overlap < 2:
            complain(self.name, ["weighted: needs an overlap of 2 or more: one label tells nothing of another"])

    def make(self, folder: Path, inputs: Mapping[str, Any], report: Report) -> None:
        """Raises `LabelsMissing` until the labels are there; TastemakerError for a project that is another's or
        asks something else, and where the extra `studio` is not installed.
        """
        try:
            from tastemaker.feedback.store import Store
        except ModuleNotFoundError as error:
            raise TastemakerError(
                f"people: {error.name} is not installed: pip install 'tastemaker[studio]'"
            ) from error
        records = [r for r in read_records(inputs["data"], Comparison).records if isinstance(r, Comparison)]
        store = Store.open(self.store)
        try:
            items = self._ask(store, records, folder, _author(inputs["data"]))
            wanted = min(self.wanted or len(items), len(items))
            with store.reading() as session:
                done = _labelled(session, items)
            report(done, wanted, {})
            if done < wanted:
                raise LabelsMissing(self.store, self.project, items, wanted, folder.name)
            self._export(store, folder, items)
        finally:
            store.close()

    def _ask(self, store: Store, records: Sequence[Comparison], folder: Path, author: _Author) -> list[int]:
        """Puts every record into the project; what is there is found again. Ids in the records' order."""
        from tastemaker.feedback.items import add_item

        with store.writing() as writer:
            project = self._own_project(writer, folder)
            from tastemaker.feedback.projects import settings_of

            settings = settings_of(writer.session, project.id)
            return [
                add_item(
                    writer,
                    project,
                    settings,
                    record.prompt,
                    [author.written(r) for r in record.responses],
                    name=f"{folder.name}/{record.row or i}",
                    columns={"asked_by": _asker(folder)},
                )[0].id
                for i, record in enumerate(records)
            ]

    def _own_project(self, writer: Writer, folder: Path) -> Project:
        """The project, made where there is none. Raises TastemakerError where it is somebody else's."""
        from sqlalchemy import select

        from tastemaker.feedback.projects import ProjectSettings, create_project, settings_of
        from tastemaker.feedback.tables import Item, Project

        project = writer.session.scalar(select(Project).where(Project.name == self.project))
        if project is None:
            settings = ProjectSettings(kind=self.kind, overlap=self.overlap)
            return create_project(writer, self.project, settings, self.guideline)
        has = settings_of(writer.session, project.id)
        if (has.kind, has.overlap) != (self.kind, self.overlap):
            raise TastemakerError(
                f"people: the project {self.project} in {self.store} asks {has.kind} of {has.overlap} people "
                f"an item, and this stage {self.kind} of {self.overlap}. Name another project"
            )
        rows = writer.session.scalars(
            select(Item.columns).where(Item.project_id == project.id, Item.gold.is_(None))
        )
        others = sum(columns.get("asked_by") != _asker(folder) for columns in rows)
        if others:
            raise TastemakerError(
                f"people: the project {self.project} in {self.store} holds {others} items that "
                f"{folder.parent} did not put there. Name another project, or another store"
            )
        return project

    def _export(self, store: Store, folder: Path, items: Sequence[int]) -> None:
        from tastemaker.feedback.agreeing import agreement
        from tastemaker.feedback.exporting import ExportOptions, export, labels_in_force
        from tastemaker.feedback.projects import project_named
        from tastemaker.feedback.quality import given_labels, weights

        with store.reading() as session:
            project = project_named(session, self.project)
            weighted = weights(session, project) if self.weighted else {}
            chosen = set(items)
            given = [g for g in given_labels(session, project.id) if g.item.id in chosen]
            own = [row for row in labels_in_force(session, project.id) if row[2].id in chosen]
        said = [
            (g.item.id, g.person, g.category) for g in given if g.judgement.purpose == "label" and g.category
        ]
        export(store, self.project, folder / "pairs.jsonl", ExportOptions(weights=weighted, items=tuple(items)))
        seconds = sum(j.seconds for j, _, _ in own)
        summary = {
            "records": len(items),
            "labels": len(own),
            "project": self.project,
            "seconds": seconds,
            "agreement": agreement(said),
        }
        write_atomic(folder / "summary.json", json.dumps(plain(summary), indent=1).encode() + b"\n")


def _labelled(session: Session, items: Sequence[int]) -> int:
    """How many of these items want nobody any more."""
    from sqlalchemy import select

    from tastemaker.feedback.tables import Queued

    wanted, closed = list(items), 0
    for start in range(0, len(wanted), 500):
        block = select(Queued.open).where(Queued.item_id.in_(wanted[start : start + 500]))
        closed += sum(not is_open for is_open in session.scalars(block))
    return closed


def _asker(folder: Path) -> str:
    """Whose items they are: those of the folder that all stages share."""
    return str(folder.parent.resolve())


@dataclass(frozen=True)
class _Author:
    """The policy that wrote responses, as far as the stage that drew them tells."""

    origin: str = ""
    weights: str = ""

    def written(self, content: Any) -> Written:
        from tastemaker.feedback.items import Written

        return Written(content=content, origin=self.origin, weights_sha256=self.weights)


def _author(data: str) -> _Author:
    folder = Path(data).parent
    if not (folder / MADE_FILE).is_file():
        return _Author()
    made = cast("Mapping[str, Any]", read_object(folder / MADE_FILE))
    for place, _ in made.get("made_from", {}).get("model", ()):
        path = (folder / place).resolve()
        return _Author(path.name, (Run.open(path).weights_hash or "") if Run.is_run(path) else "")
    return _Author()
