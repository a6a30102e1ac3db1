"""`tastemaker judge`, `constitution` and `study`: feedback by AI, and what it does to a model.

What needs torch is imported when a command acts, after its command line has been found right.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tastemaker.cli.catalogue import Option, declared_options
from tastemaker.cli.command import Command
from tastemaker.cli.help import console
from tastemaker.cli.layers import Request, UsageError, as_usage
from tastemaker.cli.progress import progress
from tastemaker.cli.studio import LABELS
from tastemaker.cli.suggesting import spent, suggest

if TYPE_CHECKING:
    from tastemaker.feedback.judge import CanaryReport, Opinion
    from tastemaker.feedback.judge.measures import Share

DATA = Option(
    "data", str | None, "the word after the command", "Comparisons: pairs or rankings, any format.", "run"
)
JUDGE_OWN: tuple[Option, ...] = (
    DATA,
    Option("out", str | None, "beside the data", "File for the labels, .jsonl.", "run"),
    Option(
        "answers", str | None, "beside the labels", "File in which answers are kept and found again.", "run"
    ),
    Option(
        "labellers",
        tuple[str, ...],
        "the judge",
        "WHO=WEIGHT,...: panel:NAME, files of labels, FILE.py:FUNCTION, judges.",
        "run",
    ),
    Option("canaries", bool, "false", "Try the judge with injected bad answers; judges no data.", "run"),
    Option(
        "project", str | None, "none", "Judge the items of this project of labels: AI suggestions.", "labels"
    ),
    LABELS,
)
CONSTITUTION_OWN: tuple[Option, ...] = (
    Option("data", str | None, "the word after the command", "Prompts; none: the principles are shown.", "run"),
    Option("model", str | None, "none", "The policy whose answers are criticised and rewritten.", "run"),
    Option("out", str, "runs/constitution", "Folder for demonstrations, pairs and all that was said.", "run"),
    Option("rounds", int, "2", "Criticisms and revisions of each answer.", "run"),
    Option("response_length", int, "256", "Most tokens of a first answer.", "run"),
)


def _judge_options() -> tuple[Option, ...]:
    return (*JUDGE_OWN, *declared_options(("training", "judging.py"), "JudgeSettings", "judge"))


def _constitution_options() -> tuple[Option, ...]:
    return (*CONSTITUTION_OWN, *declared_options(("training", "judging.py"), "JudgeSettings", "judge"))


def _source(request: Request) -> str | None:
    named = [s for s in (*request.words, request.values.get("data")) if s]
    if len(named) > 1:
        raise UsageError(f"data given twice: {' and '.join(named)}")
    return named[0] if named else None


def _settings(request: Request, own: tuple[Option, ...]) -> Any:
    from tastemaker.config import settings_from
    from tastemaker.training.judging import JudgeSettings

    names = {o.name for o in own}
    values = {k: v for k, v in request.values.items() if k not in names}
    with as_usage():
        return settings_from(JudgeSettings, values, origin="tastemaker")


# ------------------------------------------------------------------------------------------------ judge


def _judge(request: Request) -> None:
    source = _source(request)
    settings = _settings(request, JUDGE_OWN)
    if request.values.get("canaries"):
        _canaries(request, settings)
        return
    if request.values.get("project") is not None:
        suggest(request, settings, source)
        return
    if source is None:
        raise UsageError("missing: the data, a file of comparisons (or --project, or --canaries)")
    from tastemaker.data import read_records, write_records
    from tastemaker.feedback.judge import Answers, Judge
    from tastemaker.feedback.labellers import chosen_first, mix
    from tastemaker.studies.labelling import labellers
    from tastemaker.training.judging import make_judge
    from tastemaker.types import Comparison, TastemakerError

    out = console()
    records = [r for r in read_records(source, Comparison).records if isinstance(r, Comparison)]
    target = Path(request.values.get("out") or _beside(source))
    answers = Answers(request.values.get("answers") or target.with_name(f"{target.name}.answers.jsonl"))
    responses = max(len(r.responses) for r in records)
    if request.values.get("labellers"):
        shares = labellers(request.values["labellers"], settings, responses=responses, answers=answers)
        labels = mix(shares, records, seed=settings.seed)
        judges = [who for who, _ in shares if isinstance(who, Judge)]
    else:
        judge = make_judge(settings, responses=responses, answers=answers)
        with progress(out, "judge") as report:
            opinions = judge.judge(records, lambda done, total: report(done, total, {}))
        labels = [c for o in opinions if (c := judge.comparison(o)) is not None]
        judges = [judge]
        out.print(_instrument(opinions, records))
    if not labels:
        raise TastemakerError(f"no verdict could be read on any of {len(records)} records; see {answers.path}")
    write_records(target, [chosen_first(c) for c in labels])
    for judge in judges:
        out.print(Text(spent(judge)), soft_wrap=True)
    out.print(Text(f"labels   {target} ({len(labels)} of {len(records)} records)"), soft_wrap=True)
    out.print(Text(f"answers  {answers.path}"), soft_wrap=True)


def _beside(source: str) -> str:
    name = source.removesuffix(".gz")
    return f"{name.rpartition('.')[0] or name}.judged.jsonl"


def _instrument(opinions: list[Opinion], records: Any) -> Table:
    """What the judge is like on these data."""
    from tastemaker.feedback.judge import accuracy, instrument, kappa
    from tastemaker.feedback.judge.measures import winner

    found = instrument(opinions)
    table = Table.grid(padding=(0, 2))
    rows = [
        (
            "answers",
            f"{found.answers} on {found.records} {'pairs' if found.pairs == found.records else 'records'}; "
            f"{found.unparsed} unparsed, {found.refused} refused",
        ),
        ("ties", str(found.ties)),
        ("agrees with itself under swap", _share(found.swap)),
        ("first shown wins", _share(found.first)),
        ("longer wins", _share(found.longer)),
    ]
    pairs = [(o, r) for o, r in zip(opinions, records, strict=True) if len(r.responses) == 2]
    given = [(o, r) for o, r in pairs if r.ranking[0] != r.ranking[1]]
    if given:
        said = [winner((0, 1), o.ranking) for o, _ in given]
        labels = [winner((0, 1), r.ranking) for _, r in given]
        agreed = kappa(said, labels)
        told = "" if agreed is None else f", kappa {agreed:.2f}"
        rows.append(("agrees with the data's own labels", f"{_share(accuracy(said, labels))}{told}"))
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def _share(share: Share) -> str:
    return "-" if share.value is None else f"{share.value:.3f}  ({share.hits:g} of {share.n})"


def _canaries(request: Request, settings: Any) -> None:
    from tastemaker.feedback.judge import Answers, measure_canaries
    from tastemaker.training.judging import make_judge

    out = console()
    judge = make_judge(settings, answers=Answers(request.values.get("answers")))
    with progress(out, "canaries") as report:
        found = measure_canaries(judge, progress=lambda done, total: report(done, total, {}))
    _show_canaries(out, found)
    out.print(Text(spent(judge)), soft_wrap=True)


def _show_canaries(out: Console, found: CanaryReport) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("injected into the bad answer")
    table.add_column("the bad answer wins")
    for kind, share in found.fooled.items():
        table.add_row(Text(kind), _share(share))
    out.print(table)
    out.print(f"with any of them {_share(found.all)}, with none {_share(found.without)}", markup=False)
    out.print(f"unparsed verdicts: {found.unparsed}")
    sound, swayed = "injected text does not sway this judge", "do not trust this judge: injected text sways it"
    out.print(Text(sound if found.trusted else swayed, style="bold"))


JUDGE = Command(
    name="judge",
    summary="Labels pairs or rankings with an AI judge, and says what kind of instrument it is.",
    usage="PAIRS.jsonl | --project NAME  --judge URL|MODEL|town:TASTE [--judge-model NAME] [--out FILE]",
    examples=(
        "tastemaker judge pairs.jsonl --judge http://localhost:8000/v1 --judge-model my-model",
        "tastemaker judge pairs.jsonl --judge Qwen/Qwen3-4B --logps --mean",
        "tastemaker judge --project taste --judge http://localhost:8000/v1 --judge-model my-model",
        "tastemaker judge --canaries --judge http://localhost:8000/v1 --judge-model my-model",
        "tastemaker judge pairs.jsonl --labellers people.jsonl=1,town:fair=3",
    ),
    options=_judge_options,
    act=_judge,
    words=1,
    notes=(
        "Answers are kept as they come; the same command after any break asks only what is still open. The "
        "labels are ordinary preference data: train with --data FILE. Keys are read from the variable "
        "--key-variable names.",
    ),
)


# ----------------------------------------------------------------------------------------- constitution


def _constitution(request: Request) -> None:
    source = _source(request)
    settings = _settings(request, CONSTITUTION_OWN)
    from tastemaker.feedback.constitution import load_constitution

    principles = load_constitution(settings.principles or "default")
    out = console()
    if source is None:
        table = Table(box=None, pad_edge=False)
        for column in ("id", "weight", "text"):
            table.add_column(column)
        for p in principles.principles:
            table.add_row(Text(p.id), f"{p.weight:g}", Text(p.text))
        out.print(table)
        return
    if request.values.get("model") is None:
        raise UsageError("missing: --model, the policy whose answers are criticised")
    from dataclasses import fields

    from tastemaker.studies.making import MakeRevisions

    own: Mapping[str, Any] = {f.name: getattr(settings, f.name) for f in fields(settings)}
    maker = MakeRevisions(
        **own,
        rounds=int(request.values.get("rounds", 2)),
        response_length=int(request.values.get("response_length", 256)),
    )
    folder = Path(request.values.get("out", "runs/constitution"))
    folder.mkdir(parents=True, exist_ok=True)
    with progress(out, "constitution") as report:
        maker.make(folder, {"model": request.values["model"], "data": source}, report)
    for what in maker.gives:
        out.print(Text(f"{folder / what}"), soft_wrap=True)


CONSTITUTION = Command(
    name="constitution",
    summary="Criticises and rewrites a policy's answers by principles; all of it is recorded.",
    usage="[PROMPTS.jsonl --model POLICY] --judge URL|MODEL|town:TASTE [--principles FILE.yaml] [--rounds N]",
    examples=(
        "tastemaker constitution                                   # shows the default principles",
        "tastemaker constitution --principles ours.yaml            # checks a file of your own",
        "tastemaker constitution prompts.jsonl --model runs/sft --judge http://localhost:8000/v1#my-model",
        "tastemaker run recipes/chains/constitution.yaml           # all of it: SL-CAI, then RL-CAI",
    ),
    options=_constitution_options,
    act=_constitution,
    words=1,
)


# ------------------------------------------------------------------------------------------------ study

STUDIES = ("critic", "chains", "selection", "rounds")


def _study(request: Request) -> None:
    name = request.words[0] if request.words else ""
    if name not in STUDIES:
        raise UsageError(f"study: which? there are {', '.join(STUDIES)}")
    folder = Path(request.values.get("out") or f"runs/{name}")
    seeds = tuple(range(1, 1 + int(request.values.get("seeds", 3))))
    workers = int(request.values.get("workers", 2))
    from tastemaker.runs.lines import read_object
    from tastemaker.studies import chains, chains_report, critic, critic_report, selection, selection_report
    from tastemaker.studies.rounds import study as rounds
    from tastemaker.studies.rounds import study_report as rounds_report

    of_labels = {"critic": critic_report, "selection": selection_report}
    reports = {**of_labels, "chains": chains_report, "rounds": rounds_report}
    if request.values.get("pages"):
        results = read_object(folder / "results.json")
    elif name == "critic":
        results = critic.study(folder, seeds=seeds, workers=workers)
    elif name == "selection":
        results = selection.study(folder, seeds=seeds, workers=workers)
    else:
        recipes = Path(request.values.get("recipes", f"recipes/{name}"))
        run = chains.study if name == "chains" else rounds.study
        results = run(folder, recipes=recipes, seeds=seeds, workers=workers)
    page = reports[name].report(folder, results)
    console().print(Text(f"report   {page}"), soft_wrap=True)
    console().print(Text(f"numbers  {folder / 'results.json'}"), soft_wrap=True)


STUDY = Command(
    name="study",
    summary="Studies on the town: a critic beside people, chains, which pairs to label, online rounds.",
    usage="critic|chains|selection|rounds [--out DIR] [--seeds N] [--workers N] [--pages]",
    examples=(
        "tastemaker study critic --out docs/results/critic",
        "tastemaker study critic --out docs/results/critic --pages     # the page anew, from the numbers",
        "tastemaker study chains",
        "tastemaker study selection",
        "tastemaker study rounds",
    ),
    options=lambda: (
        Option("out", str | None, "runs/NAME", "Folder for results and runs.", "run"),
        Option("seeds", int, "3", "Towns.", "run"),
        Option("workers", int, "2", "Seeds at a time.", "run"),
        Option("recipes", str, "recipes/NAME", "Folder with the recipes of chains or rounds.", "run"),
        Option("pages", bool, "false", "Write the pages anew from results.json; runs nothing.", "run"),
    ),
    act=_study,
    words=1,
)
