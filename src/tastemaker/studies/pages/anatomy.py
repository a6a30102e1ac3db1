"""Pages of what is inside: weights that changed, layers that carry it, the direction of refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tastemaker.anatomy.stored import KINDS
from tastemaker.studies.pages import Page, Section
from tastemaker.studies.pages.drawings import forest, heatmap
from tastemaker.studies.pages.judgements import points, span
from tastemaker.studies.report.grid import Grid, Line
from tastemaker.studies.written import ABSENT, number

TENSOR_COLUMNS = (
    *("run", "tensor", "layer", "kind", "parameters", "relative", "cosine", "effective_rank", "stable_rank"),
)


SPOKEN = {"mlp": "MLPs"}


def weights_page(results: Mapping[str, Any]) -> Page:
    sections = [weights_section(name, results) for name in results["runs"]]
    if results["overlaps"]:
        sections.append(overlap_section(results))
    first = results["findings"][results["runs"][0]]
    kinds = results["kinds"][results["runs"][0]]
    most = max((k for k in kinds if k["relative"] == k["relative"]), key=lambda k: k["relative"])
    what = SPOKEN.get(most["kind"], most["kind"].capitalize())
    return Page(
        kind="anatomy",
        title=f"weights of {results['title']}",
        headline=f"{what} changed most: {points(most['relative'], 2)} % of their norm",
        sentences=[f"{name}: {results['findings'][name]['text']}" for name in results["runs"]],
        facts=[
            ("Runs", str(len(results["runs"]))),
            ("Tensors", str(len(results["tensors"]) // len(results["runs"]))),
            ("Common statement", "holds" if first["holds"] else "does not hold"),
        ],
        sections=sections,
        table=(TENSOR_COLUMNS, [[r[c] for c in TENSOR_COLUMNS] for r in results["tensors"]]),
    )


def weights_section(name: str, results: Mapping[str, Any]) -> Section:
    groups = results["groups"][name]
    kinds = [k for k in KINDS if any(g["kind"] == k for g in groups)]
    layers = list(dict.fromkeys(g["layer"] for g in groups))
    by = {(g["layer"], g["kind"]): g for g in groups}
    rows = ["outside" if layer is None else f"layer {layer}" for layer in layers]
    cells = [
        [100 * by[at]["relative"] if (at := (layer, k)) in by else float("nan") for k in kinds]
        for layer in layers
    ]
    words = f"{name}: change of the weights in per cent of their norm, by layer and kind"
    number_ = results["runs"].index(name)
    picture = heatmap(f"weights-{number_}", words, rows, kinds, cells)
    lines = [
        Line(
            [
                "outside" if g["layer"] is None else f"layer {g['layer']}",
                g["kind"],
                points(g["relative"], 3),
                number(g["cosine"], 6),
                number(g["effective_rank"], 1),
                number(g["parameters"], 0),
            ]
        )
        for g in groups
    ]
    how = (
        "Change: |after − before| / |before|. Cosine: of the weights before and after. Effective rank: exp of "
        "the entropy of the change's singular values, weighted by their share of the change."
    )
    heads = ["where", "kind", "change, %", "cosine", "effective rank", "parameters"]
    grid = Grid(f"weights-table-{number_}", "By layer and kind", heads, lines, how, ("groups",))
    return Section(f"run-{number_}", name, pictures=[(picture, words + ".")], grids=[grid])


def overlap_section(results: Mapping[str, Any]) -> Section:
    lines = [
        Line(
            [
                f"{m['a']} and {m['b']}",
                m["kind"],
                number(m["overlap"], 3),
                number(m["by_chance"], 3),
                number(m["cosine"], 3, sign=True),
                str(m["matrices"]),
            ]
        )
        for m in results["overlap_means"]
    ]
    how = (
        f"Overlap of the {results['directions']} leading directions of two runs' changes in the smaller "
        "dimension of each matrix, 1 the same space; beside it what random directions give. Cosine: of the "
        "changes themselves."
    )
    heads = ["runs", "kind", "overlap", "by chance", "cosine of changes", "matrices"]
    grid = Grid("overlap-table", "Overlap", heads, lines, how, ("overlap_means",))
    return Section("overlap", "Did they change the same?", grids=[grid])


def layers_page(results: Mapping[str, Any]) -> Page:
    metric = results["metric"]
    change = (
        f"{number(results['change'], 3, sign=True)} {span(results['change_low'], results['change_high'], 3, 1)}"
    )
    own = [p for p in results["parts"] if p["by"] == "layer"]
    most = max(own, key=lambda p: p["lost"], default=None)
    headline = f"No change in {metric} to explain" if not results["known"] or most is None else ""
    if results["known"] and most is not None:
        headline = f"{most['part'].capitalize()} carries most of the change in {metric}"
    bars = [(p["part"], p["lost"], p["low"], p["high"]) for p in results["parts"]]
    words = f"What putting the parent's weights back costs in {metric}, with 95% intervals over prompts"
    lines = [
        Line([p["part"], number(p["lost"], 3, sign=True), span(p["low"], p["high"], 3, 1), share(p)])
        for p in results["parts"]
    ]
    how = (
        "Lost: the run less the run with that part's weights put back, on the same prompts. Parts overlap and "
        "work together, so that shares need not sum to 1."
    )
    heads = ["put back", "lost", "95% interval", "share of the change, %"]
    grid = Grid("parts", "Parts", heads, lines, how, ("parts",))
    picture = forest("parts-figure", words, bars, middle=0.0, percent=False)
    table = (("part", "by", "lost", "low", "high", "share"), [list(p.values()) for p in results["parts"]])
    return Page(
        kind="anatomy",
        title=f"layers of {results['title']}",
        headline=headline,
        sentences=[
            f"{metric} went from {number(results['parent'], 3)} to {number(results['run'], 3)}, a change of "
            f"{change} over {results['prompts']} prompts."
        ],
        facts=[("Metric", metric), ("Prompts", str(results["source"])), ("Answers", "greedy")],
        sections=[Section("layers", "Put back, part by part", pictures=[(picture, words + ".")], grids=[grid])],
        table=table,
    )


def share(part: Mapping[str, Any]) -> str:
    return ABSENT if part["share"] is None else points(part["share"], 0)


def direction_page(results: Mapping[str, Any]) -> Page:
    chosen = results["chosen"]
    verdict = results["verdict"]
    where = f"layer {chosen['layer']}, token {chosen['position']} from the end"
    headline = (
        "One direction carries refusal here"
        if verdict["removes"] and verdict["induces"]
        else verdict["text"][0]
    )
    notes: list[str] = []
    if not results["met"]:
        notes.append(
            "No candidate kept all conditions (refusal brought about when added, the first token's "
            "distribution on harmless prompts moved by less than 0.1 nats when ablated); the best of those "
            "that bring refusal about was taken."
        )
    if results["detector"]:
        notes.append(f"Refusals are told by phrases: the detector {results['detector']}.")
    sections = [
        effects_section(results),
        candidates_section(results),
        cosine_section(results),
    ]
    if results["projections"]:
        sections.append(projection_section(results["projections"]))
    return Page(
        kind="anatomy",
        title=f"refusal direction of {results['title']}",
        headline=headline,
        sentences=[*verdict["text"], *notes],
        facts=[
            ("Direction", where),
            ("Norm", number(chosen["norm"])),
            ("Prompts", f"{results['source']}, {results['number']} of each kind and part"),
            ("Cosine with the parent's", number(results["cosines"]["chosen"], 3)),
        ],
        sections=sections,
        table=effects_table(results["effects"]),
    )


RATES = {
    "refused_unsafe": "unsafe refused, %",
    "answered_unsafe": "unsafe answered, %",
    "refused_safe": "safe refused, %",
    "begins_refusing_safe": "safe: begins as refusals do, %",
}


def effects_table(effects: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    heads = ["way", *(f"{r}_{k}" for r in RATES for k in ("rate", "low", "high", "n"))]
    return heads, [
        [way, *(e[r][k] for r in RATES for k in ("rate", "low", "high", "n"))] for way, e in effects.items()
    ]


def effects_section(results: Mapping[str, Any]) -> Section:
    lines = [
        Line([way, *(f"{points(e[r]['rate'], 0)} {span(e[r]['low'], e[r]['high'], 0)}" for r in RATES)])
        for way, e in results["effects"].items()
    ]
    how = (
        "Greedy answers to test prompts, Wilson's 95% intervals. Ablated: the direction is taken out of the "
        "residual stream everywhere. Added: it is added at its layer, at every position, or while the prompt "
        "is read alone." + (" Read by the town's gold." if results["exact"] else "")
    )
    grid = Grid("effects-table", "With and without it", ["way", *RATES.values()], lines, how, ("effects",))
    samples = [Line([way, e["sample_unsafe"], e["sample_safe"]]) for way, e in results["effects"].items()]
    read = Grid(
        "effect-samples",
        "The first answers",
        ["way", "to an unsafe request", "to a safe one"],
        samples,
        "To the same two prompts.",
        ("effects",),
        prose=True,
    )
    return Section("effects", "What it does", grids=[grid, read])


def candidates_section(results: Mapping[str, Any]) -> Section:
    lines = [
        Line(
            [
                f"layer {c['layer']}, token {c['position']}",
                number(c["norm"]),
                number(c["bypass"], sign=True),
                number(c["induce"], sign=True),
                number(c["kl"], 3),
                "yes" if c["allowed"] else "no",
            ]
        )
        for c in results["candidates"]
    ]
    how = (
        "Log-odds that the first token is one refusals begin with: of harmful prompts with the direction "
        f"ablated (as the model stands {number(results['refusal_harmful'], sign=True)}), of harmless ones with "
        f"it added (as it stands {number(results['refusal_harmless'], sign=True)}). KL in nats. Arditi et al. "
        "2024."
    )
    heads = ["read from", "norm", "ablated", "added", "KL on harmless", "allowed"]
    grid = Grid("candidates-table", "Candidates", heads, lines, how, ("candidates",))
    return Section("candidates", "What it was chosen from", grids=[grid])


def cosine_section(results: Mapping[str, Any]) -> Section:
    table = results["cosines"]["table"]
    words = "Cosine of the run's and its parent's directions, by layer and token"
    rows = [f"layer {i}" for i in range(len(table) - 1)] + ["after the last"]
    picture = heatmap("cosines", words, rows, [f"token {p}" for p in results["positions"]], table, centre=0.0)
    cosines = results["cosines"]
    text = (
        f"At the chosen place the cosine is {number(cosines['chosen'], 3)}; the direction's norm went from "
        f"{number(cosines['norm_parent'])} to {number(cosines['norm_run'])}."
    )
    return Section("parent", "Before and after alignment", [text], [(picture, words + ".")])


def projection_section(found: Mapping[str, Any]) -> Section:
    bars = [
        (f"{g['group']} ({g['n']})", g["estimate"], g["low"], g["high"])
        for g in found["groups"]
        if g["estimate"] is not None
    ]
    words = "Mean projection on the direction with 95% intervals"
    picture = forest("projections", words, bars, middle=0.0, percent=False)
    lines = [
        Line([g["group"], str(g["n"]), number(g["estimate"]), span(g["low"], g["high"], 2, 1)])
        for g in found["groups"]
    ]
    grid = Grid(
        "projections-table",
        "Projections",
        ["prompts", "number", "mean", "95% interval"],
        lines,
        "Of the residual at the chosen layer and token, before anything is answered.",
        ("projections",),
    )
    text = (
        "Probability that a reworded request that was refused lies further along it than one that was "
        f"answered: {number(found['separation'])}."
    )
    return Section("rewordings", "Reworded unsafe requests", [text], [(picture, words + ".")], [grid])
