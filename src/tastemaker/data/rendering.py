"""From records to segments of text: what is prompt, what is response, what is trained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tastemaker.data.dialogue import turns
from tastemaker.data.problems import Unusable
from tastemaker.data.template import ChatTemplate, free_characters
from tastemaker.types import Comparison, Demonstration, Judgement, Message, Record, StepLabels, Text

NOT_A_PREFIX = "the chat template writes the prompt otherwise once a response follows"


@dataclass(frozen=True, slots=True)
class Segment:
    """A text that is tokenised on its own, so that the boundary to its neighbours cannot move."""

    text: str
    trained: bool = True
    closes_step: bool = False


@dataclass(frozen=True, slots=True)
class Rendered:
    """One record as text. `ended[k]`: the template closed response k, so no end token is to be added."""

    prompt: tuple[Segment, ...]
    responses: tuple[tuple[Segment, ...], ...] = ()
    ended: tuple[bool, ...] = ()
    from_template: bool = False
    control: tuple[str, ...] = ()
    """Control strings that stood in the data and were kept as text."""
    doubled_bos: int = 0
    doubled_end: int = 0


@dataclass(slots=True)
class _Notes:
    control: list[str] = field(default_factory=list[str])
    doubled_bos: int = 0
    doubled_end: int = 0


def responses_of(record: Record) -> tuple[Text, ...]:
    """The responses a record holds, in its own order."""
    if isinstance(record, Comparison):
        return record.responses
    if isinstance(record, Demonstration | Judgement):
        return (record.response,)
    return ("\n".join(record.steps),) if isinstance(record, StepLabels) else ()


def is_conversation(record: Record) -> bool:
    """Whether any part of the record is messages, so that a chat template is needed."""
    return not isinstance(record.prompt, str) or any(not isinstance(r, str) for r in responses_of(record))


def render(record: Record, template: ChatTemplate, *, bos: str | None, eos: str | None) -> Rendered:
    """One record as segments. `bos` is what the tokenizer writes before plain text itself, if anything.

    Raises Unusable where the template refuses the record or would change its meaning.
    """
    notes = _Notes()
    if is_conversation(record):
        prompt, responses, ended = _conversation(record, template, notes)
    else:
        prompt, responses = _plain(record, template, bos, eos, notes)
        ended = (False,) * len(responses)
    return Rendered(
        prompt=prompt,
        responses=responses,
        ended=ended,
        from_template=is_conversation(record),
        control=tuple(notes.control),
        doubled_bos=notes.doubled_bos,
        doubled_end=notes.doubled_end,
    )


# --------------------------------------------------------------------------------------- plain text


def _plain(
    record: Record, template: ChatTemplate, bos: str | None, eos: str | None, notes: _Notes
) -> tuple[tuple[Segment, ...], tuple[tuple[Segment, ...], ...]]:
    prompt = record.prompt if isinstance(record.prompt, str) else ""
    while bos and prompt.startswith(bos):
        prompt, notes.doubled_bos = prompt.removeprefix(bos), notes.doubled_bos + 1
    texts: list[str] = []
    for response in responses_of(record):
        text, doubled = template.without_end(str(response), eos)
        notes.doubled_end += doubled
        texts.append(text)
    if template.guards:
        notes.control += template.found_in([prompt, *texts])
    responses = (
        [_steps(record, template)] if isinstance(record, StepLabels) else [_cut(t, template) for t in texts]
    )
    return _cut(prompt, template), tuple(responses)


def _cut(text: str, template: ChatTemplate) -> tuple[Segment, ...]:
    return tuple(Segment(piece) for piece in template.cut(text) if piece)


def _steps(record: StepLabels, template: ChatTemplate) -> tuple[Segment, ...]:
    """Steps are joined by newlines; the newline belongs to the step it closes."""
    segments: list[Segment] = []
    for i, step in enumerate(record.steps):
        text = step if i == len(record.steps) - 1 else step + "\n"
        pieces = [piece for piece in template.cut(text) if piece]
        segments += [Segment(piece, closes_step=j == len(pieces) - 1) for j, piece in enumerate(pieces)]
    return tuple(segments)


# ------------------------------------------------------------------------------------ conversations


def _conversation(
    record: Record, template: ChatTemplate, notes: _Notes
) -> tuple[tuple[Segment, ...], tuple[tuple[Segment, ...], ...], tuple[bool, ...]]:
    prompt = turns(record.prompt, "user") if record.prompt else ()
    responses = [_clean(turns(r, "assistant"), template, notes) for r in responses_of(record)]
    everything = [m.content for m in prompt] + [m.content for r in responses for m in r]
    if template.guards:
        notes.control += template.found_in(everything)
    marks = _Marks(template, bool(notes.control), everything)
    opens = not responses or responses[0][:1] == () or responses[0][0].role == "assistant"
    head = marks.render(prompt, add_generation_prompt=opens and bool(prompt))
    if not prompt and opens and responses:
        head = _opening(marks.render(responses[0]), template.header)
    done = [_response(record, prompt, response, head, marks) for response in responses]
    segments = tuple(Segment(piece) for piece in head.split(marks.cut) if piece)
    return segments, tuple(s for s, _ in done), tuple(e for _, e in done)


def _opening(text: str, header: str) -> str:
    """What a template writes before the first turn where there is no prompt: its header is no response."""
    at = text.find(header) if header else -1
    return text[: at + len(header)] if at >= 0 else ""


def _clean(messages: tuple[Message, ...], template: ChatTemplate, notes: _Notes) -> tuple[Message, ...]:
    """Assistant turns without an end token that somebody wrote into the text."""
    cleaned: list[Message] = []
    for message in messages:
        content = message.content
        if message.role == "assistant":
            content, doubled = template.without_end(content, template.end_token)
            notes.doubled_end += doubled
        cleaned.append(Message(message.role, content))
    return tuple(cleaned)


class _Marks:
    """Renders with invisible marks: where control strings are cut, where assistant contents begin and end."""

    def __init__(self, template: ChatTemplate, has_control: bool, texts: Sequence[str]) -> None:
        free = free_characters([*texts, template.source or ""])
        self.template = template
        self.has_control = has_control
        self.cut, self.start, self.end = next(free), next(free), next(free)

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False, spans_from: int | None = None
    ) -> str:
        """Marked text. `spans_from`: mark assistant contents from this message on."""
        plain = self.template.render(messages, add_generation_prompt=add_generation_prompt)
        if not self.has_control and spans_from is None:
            return plain
        marked = [self._mark(m, spans_from is not None and i >= spans_from) for i, m in enumerate(messages)]
        text = self.template.render(marked, add_generation_prompt=add_generation_prompt)
        if self.unmark(text) != plain:
            raise Unusable(
                "the chat template reads inside the text, so that its turns or control strings are lost"
            )
        return text

    def _mark(self, message: Message, spans: bool) -> Message:
        content = self.template.mark(message.content, self.cut)
        core = content.strip()
        if spans and core and message.role == "assistant":
            at = content.index(core)
            content = content[:at] + self.start + core + self.end + content[at + len(core) :]
        return Message(message.role, content)

    def unmark(self, text: str) -> str:
        return text.replace(self.cut, "").replace(self.start, "").replace(self.end, "")


def _response(
    record: Record, prompt: tuple[Message, ...], response: tuple[Message, ...], head: str, marks: _Marks
) -> tuple[tuple[Segment, ...], bool]:
    several = len(response) > 1
    full = marks.render([*prompt, *response], spans_from=len(prompt) if several else None)
    if not full.startswith(head):
        raise Unusable(NOT_A_PREFIX)
    rest = full[len(head) :]
    if isinstance(record, StepLabels):
        return _template_steps(record, rest, marks)
    return _spans(rest, response, marks) if several else _single(rest, marks)


def _single(rest: str, marks: _Marks) -> tuple[tuple[Segment, ...], bool]:
    """One assistant turn: trained through the first control token that closes it."""
    rest, ended = _close(rest, marks)
    return tuple(Segment(piece) for piece in rest.split(marks.cut) if piece), ended


def _close(rest: str, marks: _Marks) -> tuple[str, bool]:
    closing = marks.template.closing
    if closing is None:
        return rest, False
    tail = re.search(rf"(?:{closing.pattern})+\s*\Z", rest)
    if tail is None:
        return rest, False
    first = closing.match(rest, tail.start())
    return (rest[: first.end()], True) if first else (rest, False)


def _template_steps(record: StepLabels, rest: str, marks: _Marks) -> tuple[tuple[Segment, ...], bool]:
    rest, ended = _close(rest, marks)
    segments: list[Segment] = []
    for i, step in enumerate(record.steps):
        marked = marks.template.mark(step, marks.cut) if marks.has_control else step
        at = rest.find(marked.strip())
        if at < 0:
            raise Unusable("the chat template changes its steps")
        cut = at + len(marked.strip())
        if i < len(record.steps) - 1 and rest[cut : cut + 1] == "\n":
            cut += 1
        pieces = [piece for piece in rest[:cut].split(marks.cut) if piece]
        segments += [Segment(piece, closes_step=j == len(pieces) - 1) for j, piece in enumerate(pieces)]
        rest = rest[cut:]
    return tuple([*segments, Segment(rest)] if rest else segments), ended


def _spans(rest: str, response: tuple[Message, ...], marks: _Marks) -> tuple[tuple[Segment, ...], bool]:
    """Several turns: each assistant turn is trained from its header's end through its end token."""
    closing = marks.template.closing
    segments: list[Segment] = []
    position, ended = 0, False
    opens = response[0].role == "assistant"
    for match in re.finditer(rf"{marks.start}(.*?){marks.end}", rest, flags=re.DOTALL):
        start = 0 if opens and not segments else _after_header(rest, position, match.start(), marks)
        close = closing.match(rest, match.end()) if closing is not None else None
        stop = close.end() if close else match.end()
        segments += _pieces(rest[position:start], False, marks)
        segments += _pieces(rest[start:stop], True, marks)
        position, ended = stop, close is not None
    if not segments:
        raise Unusable("no assistant turn is left")
    return tuple(segments), ended


def _after_header(rest: str, begin: int, content: int, marks: _Marks) -> int:
    header = marks.template.header
    at = rest.rfind(header, begin, content) if header else -1
    return at + len(header) if at >= 0 else content


def _pieces(text: str, trained: bool, marks: _Marks) -> list[Segment]:
    text = text.replace(marks.start, "").replace(marks.end, "")
    return [Segment(piece, trained) for piece in text.split(marks.cut) if piece]
