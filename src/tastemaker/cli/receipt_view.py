"""A receipt on the terminal. Colour helps; marks say the same without it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tastemaker.data import Audit, Example, LengthBias, Lengths, Piece, Receipt, Rows, shares, visible
from tastemaker.data.measures import Linked

PROMPT_SHOWN = (40, 40)
"""Pieces shown of the beginning and the end of a long prompt."""
RESPONSE_SHOWN = (240, 60)
NAMED = 4
"""Rows named of each finding."""


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    words: str
    count: int
    of: int
    rows: str = ""


# ------------------------------------------------------------------------------------------- counts


def show_receipt(out: Console, receipt: Receipt) -> None:
    """All counts of a tokenisation."""
    _title(out, receipt.source, f"{receipt.kind}; {receipt.format}")
    audit = receipt.audit
    _rows(out, receipt.rows, receipt.used, "used", audit.skipped, receipt.dropped, audit)
    _findings(out, [*_of_tokens(receipt), *_of_texts(audit)])
    _sizes(out, "tokens", receipt.tokens)
    _bias(out, receipt.length_bias, audit.length_bias)
    lines: list[tuple[str, str | Text]] = [
        ("trained", _trained(receipt)),
        ("prompts", _prompts(audit)),
        *_labels(audit),
        ("template", _template(receipt)),
        ("end token", _end(receipt)),
    ]
    if receipt.agreement is not None:
        lines.append(("reward", receipt.agreement.to_line()))
    if audit.leakage is not None:
        lines.append(("eval data", audit.leakage.to_line()))
    _facts(out, lines)


def show_audit(out: Console, audit: Audit) -> None:
    """What the texts say by themselves."""
    _title(out, audit.source, f"{audit.kind}; {audit.format}")
    out.print(
        Text(
            "No --model: counts of the texts alone. What is cut, how responses end, templates and lengths in "
            "tokens need a tokenizer (--model tiny makes one of these texts).",
            style="yellow",
        )
    )
    _rows(out, audit.rows, audit.usable, "usable", audit.skipped, audit.dropped, audit)
    _findings(out, list(_of_texts(audit)))
    _sizes(out, "characters", audit.lengths)
    _bias(out, None, audit.length_bias)
    lines: list[tuple[str, str | Text]] = [("prompts", _prompts(audit)), *_labels(audit)]
    if audit.leakage is not None:
        lines.append(("eval data", audit.leakage.to_line()))
    _facts(out, lines)


def _title(out: Console, source: str, words: str) -> None:
    out.print(Text.assemble((visible(source), "bold"), f"  {words}"), soft_wrap=True)


def _rows(
    out: Console, read: int, used: int, word: str, skipped: Rows, dropped: Mapping[str, Rows], audit: Audit
) -> None:
    lost = [Finding("break their format", skipped.count, read, skipped.named(NAMED))] if skipped.count else []
    ordered = sorted(dropped.items(), key=lambda item: -item[1].count)
    for reason, rows in ordered[:20]:
        sides = ", ".join(f"{side} {found.count}" for side, found in audit.empty.items())
        words = f"{visible(reason)} ({sides})" if reason == "empty response" and sides else visible(reason)
        lost.append(Finding(words, rows.count, read, rows.named(NAMED)))
    if ordered[20:]:
        lost.append(Finding("for other reasons", sum(rows.count for _, rows in ordered[20:]), read))
    gone = skipped.count + sum(rows.count for rows in dropped.values())
    told = f", {gone:,} dropped ({_percent(gone, read)})" if gone else ", none dropped"
    out.print(Text(f"\n{read:,} rows read, {used:,} records {word}{told}"))
    if lost:
        out.print(_table(lost))


def _of_tokens(receipt: Receipt) -> Iterable[Finding]:
    spelt = ", ".join(f"{visible(text)} x{n}" for text, n in list(receipt.control_tokens.items())[:5])
    of_responses = {
        "truncated_responses": "response cut at the limit",
        "lost_eos": "response without its end token",
        "added_eos": "end token added, since the template writes none",
    }
    words = {
        "truncated_prompts": "prompt cut from the left",
        **(of_responses if receipt.responses else {}),
        "doubled_bos": "doubled begin token, taken off",
        "doubled_eos": "doubled end token, taken off",
        "control_tokens": f"control tokens inside the text, kept as text ({spelt})"
        if spelt
        else "control tokens inside the text",
        "unknown_tokens": "text the tokenizer does not know",
    }
    for name, said in words.items():
        rows = receipt.findings[name]
        yield Finding(said, rows.count, receipt.used, rows.named(NAMED))


def _of_texts(audit: Audit) -> Iterable[Finding]:
    n = audit.usable
    of_pairs = (
        ("chosen equal to rejected", audit.identical.count),
        ("no shared prompt", audit.no_shared_prompt.count),
    )
    for words, count in of_pairs if audit.kind == "Comparison" else ():
        if not count:  # where there are some, the dropped rows tell
            yield Finding(words, 0, audit.rows)
    yield Finding("empty prompt", audit.empty_prompts.count, n, audit.empty_prompts.named(NAMED))
    if audit.kind != "Question":
        if not audit.empty:
            yield Finding("empty response", 0, audit.rows)
        echo = audit.repeats_prompt
        yield Finding("response repeats the prompt", echo.count, n, echo.named(NAMED))
    yield _linked("repeats an earlier row", audit.duplicates, n, "as")
    yield _linked("contradicts an earlier row", audit.contradictory, n, "and")
    spelt = ", ".join(f"{visible(text)} x{k}" for text, k in list(audit.control_texts.items())[:5])
    words = "looks like some model's control tokens"
    yield Finding(f"{words} ({spelt})" if spelt else words, audit.control.count, n, audit.control.named(NAMED))


def _linked(words: str, found: Linked, of: int, word: str) -> Finding:
    return Finding(words, found.count, of, found.named(word, NAMED))


def _findings(out: Console, findings: Sequence[Finding]) -> None:
    there = [f for f in findings if f.count]
    none = [f.words for f in findings if not f.count]
    if there:
        out.print(Text("\nfound in the records", style="bold"))
        out.print(_table(there))
    if none:
        out.print(Text(f"\nnot found: {'; '.join(none)}", style="dim"))


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=True, padding=(0, 1))
    table.add_column(justify="right", style="yellow", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for f in findings:
        words = Text(f.words)
        if f.rows:
            words.append(f"\n{f.rows}", style="dim")
        table.add_row(f"{f.count:,}", _percent(f.count, f.of), words)
    return table


def _percent(count: int, of: int) -> str:
    share = count / of if of else 0.0
    return f"{share:.1%}" if share >= 0.001 or not count else "<0.1%"


def _sizes(out: Console, unit: str, sizes: Mapping[str, Lengths]) -> None:
    table = Table(box=None, pad_edge=True, padding=(0, 1), header_style="dim")
    table.add_column(unit, overflow="fold")
    for name in ("mean", "p50", "p95", "max"):
        table.add_column(name, justify="right", overflow="fold")
    for name, size in sizes.items():
        table.add_row(name, f"{size.mean:,.1f}", f"{size.p50:,}", f"{size.p95:,}", f"{size.max:,}")
    out.print()
    out.print(table)


def _bias(out: Console, tokens: LengthBias | None, characters: LengthBias | None) -> None:
    """How much longer chosen responses are, with intervals of 95%."""
    table = Table(box=None, pad_edge=True, padding=(0, 1), header_style="dim")
    for name in ("chosen", "longer in", "by, on average", "longer, shorter, equal"):
        table.add_column(name, overflow="fold")
    for unit, bias in (("tokens", tokens), ("characters", characters)):
        if bias is not None:
            counted = f"{bias.longer:,}, {bias.shorter:,}, {bias.equal:,} of {bias.pairs:,}"
            table.add_row(unit, bias.share_words(), bias.difference_words(), counted)
    if table.row_count:
        out.print()
        out.print(table)


def _facts(out: Console, lines: Iterable[tuple[str, str | Text]]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, text in lines:
        table.add_row(Text(name, style="dim"), Text(text) if isinstance(text, str) else text)
    out.print()
    out.print(table)


def _trained(receipt: Receipt) -> str:
    if not receipt.responses:
        return "none of these: prompts alone, whose responses are generated"
    return (
        f"{receipt.trained_tokens:,} of {receipt.all_tokens:,} tokens "
        f"({_percent(receipt.trained_tokens, receipt.all_tokens)}); responses hold {receipt.response_tokens:,}"
    )


def _prompts(audit: Audit) -> str:
    return f"{audit.prompts:,} different; {audit.several_turns:,} with several user turns"


def _labels(audit: Audit) -> list[tuple[str, str | Text]]:
    told = ", ".join(f"{count:,} {label}" for label, count in audit.labels.items())
    return [("labels", told)] if told else []


def _template(receipt: Receipt) -> str:
    if receipt.template == "none":
        return "none needed: the texts are no conversations"
    words = {"plain": "roles as words", "tokenizer": "the tokenizer's own", "given": "the one given"}
    return f"{words[receipt.template]} ({receipt.template_sha256[:8]})"


def _end(receipt: Receipt) -> str:
    if not receipt.end_token:
        return "none: the model cannot learn where to stop"
    wrote = "added to every response" if receipt.template == "none" else "written by the template"
    if receipt.added_eos:
        wrote = f"the template does not end {receipt.added_eos:,} responses, so it is added"
    return f"{visible(receipt.end_token)}, {wrote}"


def show_limits(out: Console, found: Receipt | Audit, limits: Mapping[str, float]) -> None:
    """Every limit that was set, and whether it holds."""
    rows: list[tuple[str, Text]] = []
    for name, share in shares(found).items():
        if limits[name] < 1:
            broken = share.value > limits[name]
            counted = f"{limits[name]:.4g}: {share.count:,} of {share.of:,}, "
            verdict = ("BROKEN", "bold red") if broken else ("holds", "green")
            rows.append((name, Text.assemble(counted, verdict)))
    if rows:
        _facts(out, rows)


# ------------------------------------------------------------------------------------------ example


@dataclass(frozen=True)
class Marks:
    """What stands for what, where colour may be missing."""

    between: str
    newline: str
    opening: str
    closing: str
    ascii_only: bool


def marks_for(out: Console) -> Marks:
    """Plain ASCII where the output can write no more."""
    if out.encoding.lower().replace("-", "").startswith("utf"):
        return Marks("│", "⏎", "⟪", "⟫", False)
    return Marks("|", "\\n", "{", "}", True)


def show_example(out: Console, shown: Example, *, ids: bool, whole: bool) -> None:
    """A record as the model gets it: the prompt, then each response, in groups of like tokens."""
    marks = marks_for(out)
    row = visible(shown.row, ascii_only=marks.ascii_only)
    out.print(Text(f"\nrow {row}, token by token", style="bold"))
    legend = f"{marks.between} between tokens, {marks.opening}special{marks.closing}"
    out.print(
        Text(f"{legend}, {marks.newline} line end" + (", id after each token" if ids else ""), style="dim")
    )
    _part(
        out,
        f"prompt: {_tokens(sum(len(p.ids) for p in shown.prompt))}",
        shown.prompt,
        marks,
        ids,
        _most(whole, PROMPT_SHOWN),
    )
    for response in shown.responses:
        end = "ends with its end token" if response.ended else "does NOT end: cut, or no end token"
        title = f"{response.label}: {_tokens(response.size)}, {response.trained:,} trained, {end}"
        _part(out, title, response.pieces, marks, ids, _most(whole, RESPONSE_SHOWN), in_prompt=False)


def _tokens(count: int) -> str:
    return f"{count:,} token{'s' * (count != 1)}"


def _most(whole: bool, most: tuple[int, int]) -> tuple[int, int] | None:
    return None if whole else most


def _part(
    out: Console,
    title: str,
    pieces: Sequence[Piece],
    marks: Marks,
    ids: bool,
    most: tuple[int, int] | None,
    *,
    in_prompt: bool = True,
) -> None:
    out.print(Text(f"\n{title}"))
    hidden = 0 if most is None else max(0, len(pieces) - sum(most))
    parts: list[Sequence[Piece]] = [pieces]
    if most is not None and hidden:
        parts = [pieces[: most[0]], pieces[-most[1] :]]
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for n, part in enumerate(parts):
        if n:
            table.add_row("", Text(f"... {hidden:,} more (--whole shows them) ...", style="dim italic"))
        for trained, group in groupby(part, key=lambda piece: piece.trained):
            name = "prompt" if in_prompt else "trained" if trained else "not trained"
            style = "dim" if in_prompt else "green" if trained else "magenta"
            table.add_row(name, _spelt(list(group), style, marks, ids))
    out.print(table)


def _spelt(pieces: Sequence[Piece], style: str, marks: Marks, ids: bool) -> Text:
    text = Text()
    for n, piece in enumerate(pieces):
        if n and not text.plain.endswith("\n"):
            text.append(marks.between, style="dim")
        printed = _printed(piece.text, marks)
        if piece.special:
            printed = f"{marks.opening}{printed}{marks.closing}"
        line = printed.rstrip("\n")
        text.append(line, style=f"{style} bold reverse" if piece.special else style)
        if ids:
            text.append(f"[{' '.join(map(str, piece.ids))}]", style="dim cyan")
        text.append(printed[len(line) :])
    text.rstrip()
    return text


def _printed(text: str, marks: Marks) -> str:
    """Fit to print; lines end where the text's lines do."""
    lines = re.split(r"(\n+)", text)
    return "".join(
        marks.newline * len(part) + "\n"
        if part.startswith("\n")
        else visible(part, ascii_only=marks.ascii_only)
        for part in lines
    )
