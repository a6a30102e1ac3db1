"""`tastemaker evaluate`: policies on prompts, a reward model on pairs, or recorded verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from tastemaker.cli.catalogue import Option
from tastemaker.cli.command import Command
from tastemaker.cli.help import console
from tastemaker.cli.layers import Request, UsageError

if TYPE_CHECKING:
    from tastemaker.evaluation.comparing import Comparing

OPTIONS = (
    Option(
        "prompts", str, "none", "File of prompts that the runs answer, or town:SEED (judged by gold).", "run"
    ),
    Option("reward", str, "none", "Reward model that scores the answers.", "run"),
    Option(
        "judge",
        str,
        "none",
        "Who compares them: a model's folder, http://host/v1#MODEL, or town:TASTE (a critic).",
        "run",
    ),
    Option(
        "behaviour_judge", str, "none", "Who else says which answers refuse: a model or an endpoint.", "run"
    ),
    Option("labelled", str, "none", "Answers that people labelled: the errors of that judge.", "run"),
    Option("data", str, "none", "File of comparisons; the run is then a reward model, read on them.", "run"),
    Option(
        "best_of_n",
        int,
        "none",
        "A reward model chooses among so many answers of --policy; with --prompts.",
        "run",
    ),
    Option("policy", str, "none", "Whose answers it chooses from.", "run"),
    Option("gold", str, "the town's", "Another reward model, which says what its choice is worth.", "run"),
    Option("judgements", str, "none", "File of recorded verdicts or ratings; no model is needed.", "run"),
    Option("out", str, "evaluation", "Folder for report.html, results.json and results.csv.", "run"),
    Option("number", int, "384", "Prompts to answer, or pairs to read, at most (pairs: all).", "run"),
    Option("temperature", float, "1.0", "Of the answers; 0 is greedy.", "run"),
    Option("max_new_tokens", int, "256", "Tokens an answer may have.", "run"),
    Option("seen", str, "refuse", "Prompts that a run was trained on: refuse, drop or keep them.", "run"),
    Option("seed", int, "0", "Of samples, resamples and random orders.", "run"),
    Option(
        "baseline", str, "none", "The model others are measured against; none: the one all met.", "comparison"
    ),
    Option(
        "models",
        list[str],
        "none",
        "The models there may be; a verdict that names another is an error.",
        "comparison",
    ),
    Option(
        "disconnected",
        str,
        "refuse",
        "Where the graph of wins is not connected: refuse ratings, or regularise them by a prior.",
        "comparison",
    ),
    Option(
        "length_inputs",
        str,
        "none",
        "File of instruction difficulties (and AlpacaEval's gamed rows) for win rates at equal length.",
        "comparison",
    ),
    Option(
        "sequential",
        str,
        "none",
        "msprt, confidence_sequence or betting: a test that may be looked at after every verdict.",
        "comparison",
    ),
    Option("alpha", float, "0.05", "Error of that test, over all looks together.", "comparison"),
    Option("tau2", float, "0.01", "Variance of mSPRT's mixture over the difference from 1/2.", "comparison"),
    Option("planned", int, "500", "Verdicts at which the confidence sequence is tightest.", "comparison"),
)


def _evaluate(request: Request) -> None:
    values = request.values
    if values.get("judgements"):
        if request.words:
            raise UsageError("--judgements needs no run; leave the words out")
        _judgements(values)
        return
    if not request.words:
        raise UsageError(
            "nothing to evaluate: give runs and --prompts, a reward model and --data, or --judgements"
        )
    if values.get("best_of_n"):
        _best_of_n(request.words, values)
    elif values.get("data"):
        _reward(request.words, values)
    elif values.get("prompts"):
        _policies(request.words, values)
    else:
        raise UsageError("runs need --prompts FILE to answer; a reward model needs --data FILE to be read on")


def _reward(words: list[str], values: dict[str, Any]) -> None:
    if len(words) > 1:
        raise UsageError("--data reads one reward model at a time")
    from tastemaker.studies.reward_evaluation import evaluate_reward

    results, page = evaluate_reward(
        words[0],
        values["data"],
        _out(values),
        seed=values.get("seed", 0),
        seen=values.get("seen", "refuse"),
        limit=values.get("number"),
    )
    show_reward(results, page)


def _best_of_n(words: list[str], values: dict[str, Any]) -> None:
    missing = [name for name in ("policy", "prompts") if not values.get(name)]
    if len(words) > 1 or missing:
        raise UsageError(
            "--best-of-n takes one reward model, --policy RUN and --prompts P"
            + (f"; missing: {', '.join(f'--{m}' for m in missing)}" if missing else "")
        )
    from tastemaker.studies.best_of_n import BestOfN, evaluate_best_of_n

    names = ("gold", "number", "temperature", "max_new_tokens", "seed", "seen")
    asked = BestOfN(
        reward=words[0],
        policy=values["policy"],
        prompts=values["prompts"],
        samples=values["best_of_n"],
        **{k: values[k] for k in names if k in values},
    )
    results, page = evaluate_best_of_n(asked, _out(values))
    show_best_of_n(results, page)


def show_best_of_n(results: dict[str, Any], page: Path) -> None:
    """The curve, and where the rest is."""
    from tastemaker.studies.written import number

    out = console()
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for head in ("n", "gold", "error", "the best", "its score"):
        table.add_column(head, justify="right")
    for e in results["curve"]:
        table.add_row(number(e["n"], 0), *(number(e[k], 3) for k in ("value", "se", "best", "proxy")))
    out.print(table)
    for note in results["notes"]:
        out.print(Text(note), soft_wrap=True)
    out.print(Text(f"report   {page}"), soft_wrap=True)


def _policies(words: list[str], values: dict[str, Any]) -> None:
    from tastemaker.studies.policy_evaluation import PolicyEvaluation, evaluate_policies

    names = ("number", "temperature", "max_new_tokens", "seed", "seen", "behaviour_judge", "labelled")
    given = {k: values[k] for k in names if k in values}
    asked = PolicyEvaluation(
        runs=words,
        prompts=values["prompts"],
        reward=values.get("reward"),
        judge=values.get("judge"),
        comparing=_asked(values),
        **given,
    )
    results, page = evaluate_policies(asked, _out(values))
    show(results, page)


def _judgements(values: dict[str, Any]) -> None:
    from tastemaker.studies.evaluations import evaluate_judgements

    results, page = evaluate_judgements(values["judgements"], _out(values), _asked(values))
    show(results, page)


def _out(values: dict[str, Any]) -> Path:
    return Path(values.get("out", "evaluation"))


def _asked(values: dict[str, Any]) -> Comparing:
    from tastemaker.evaluation.comparing import Comparing
    from tastemaker.evaluation.looks import Stopping
    from tastemaker.studies.evaluations import read_length_inputs

    stopping = None
    if values.get("sequential"):
        stopping = Stopping(
            rule=values["sequential"],
            alpha=values.get("alpha", 0.05),
            tau2=values.get("tau2", 0.01),
            planned=values.get("planned", 500),
        )
    disconnected = values.get("disconnected", "refuse")
    if disconnected not in ("refuse", "regularise"):
        raise UsageError(f"--disconnected {disconnected}: should be refuse or regularise")
    inputs = values.get("length_inputs")
    return Comparing(
        baseline=values.get("baseline"),
        models=values.get("models"),
        disconnected=disconnected,
        stopping=stopping,
        length_inputs=read_length_inputs(inputs) if inputs else None,
        seed=values.get("seed", 0),
    )


def show(results: dict[str, Any], page: Path) -> None:
    """The main numbers, what to doubt, and where the rest is."""
    from tastemaker.studies.pages.judgements import equal_length, points, rating_headline, span
    from tastemaker.studies.written import number

    out = console()
    battles = results.get("battles")
    if "policies" in results:
        _show_policies(results)
    if battles:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
        table.add_column("model")
        for head in ("win rate, %", "95% interval", "equal length, %", "won/lost/tied", "unread", "Elo"):
            table.add_column(head, justify="right")
        elo = {m["model"]: m["elo"] for m in (battles["ratings"] or {}).get("models", ())}
        rows = battles["models"] or [{"model": name} for name in elo]
        for r in rows:
            counts = f"{r['wins']}/{r['losses']}/{r['ties']}" if "wins" in r else ""
            cells = [points(r.get("win_rate")), span(r.get("low"), r.get("high")), equal_length(r), counts]
            cells += [str(r.get("unparsed", "")), number(elo.get(r["model"]), 0)]
            table.add_row(Text(r["model"]), *cells)
        out.print(table)
        for note in battles["notes"]:
            out.print(Text(note), soft_wrap=True)
    elif results.get("ratings") or results.get("two_orders"):
        out.print(Text(rating_headline(results)), soft_wrap=True)
    out.print(Text(f"report   {page}"), soft_wrap=True)
    out.print(Text(f"numbers  {page.parent / 'results.json'}"), soft_wrap=True)


def _show_policies(results: dict[str, Any]) -> None:
    from tastemaker.studies.pages.judgements import span
    from tastemaker.studies.written import number

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("policy")
    for head in ("score", "95% interval", "tokens"):
        table.add_column(head, justify="right")
    for policy in results["policies"]:
        score = policy.get("score", {})
        cells = [number(score.get("mean")), span(score.get("low"), score.get("high"), 2, 1)]
        table.add_row(Text(policy["name"]), *cells, number(policy["tokens"]["mean"], 1))
    out = console()
    out.print(table)
    for note in results["notes"]:
        out.print(Text(note), soft_wrap=True)


def show_reward(results: dict[str, Any], page: Path) -> None:
    """How often it is right, what is wrong with it, and where the rest is."""
    from tastemaker.studies.pages.judgements import points, span

    out = console()
    report = results["report"]
    accuracy = report["accuracy"]
    said = f"{points(accuracy['estimate'], 1)} % {span(accuracy['low'], accuracy['high'])}"
    out.print(
        Text(f"{results['reward']} orders {said} of {report['pairs']} pairs as people did"), soft_wrap=True
    )
    for finding in [*report["findings"], *results["notes"]]:
        out.print(Text(f"- {finding}"), soft_wrap=True)
    out.print(Text(f"report   {page}"), soft_wrap=True)
    out.print(Text(f"numbers  {page.parent / 'results.json'}"), soft_wrap=True)


EVALUATE = Command(
    name="evaluate",
    summary="Says how good policies, reward models or recorded verdicts are, with intervals.",
    usage="RUN... --prompts P [--judge J | --reward RM] | RM --data D | RM --best-of-n N | --judgements FILE",
    examples=(
        "tastemaker evaluate runs/sft runs/dpo --prompts test.jsonl --reward runs/judge",
        "tastemaker evaluate runs/reward --data pairs.jsonl",
        "tastemaker evaluate --judgements verdicts.jsonl",
        "tastemaker evaluate runs/reward --best-of-n 16 --policy runs/sft --prompts p.jsonl --gold runs/rm2",
    ),
    options=lambda: OPTIONS,
    act=_evaluate,
    words=16,
)
