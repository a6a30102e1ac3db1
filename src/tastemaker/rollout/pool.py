"""Decoding many rows with few places: rows that have ended make room for rows that wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tastemaker.functional import uniforms
from tastemaker.models.decode import Decoder
from tastemaker.rollout.sampling import draw
from tastemaker.rollout.stops import StopStrings
from tastemaker.types import Sampling, TastemakerError

SHRINK_AT = 0.75
"""Finished rows are dropped when at most this share of the rows would be left."""
ROWS_IN_STEP = 4
"""Rows are kept in multiples of this: kernels are made anew for each number of rows they meet."""
UNIFORMS_AHEAD = 64
"""Steps whose random numbers are made at once."""
CHECK_EVERY = 8
"""Steps between looks at which rows have ended, where looking means waiting for a device."""


@dataclass(frozen=True)
class Work:
    """Rows to be decoded, in the order in which they get a place, and the random streams they draw from."""

    prompts: list[Tensor]
    owners: list[int]
    """Of each row, ascending: index into `prompts`."""
    rows: Tensor
    """[R] `Tree.row` of each row."""
    members: Tensor
    """[R] k of each row."""
    room: Tensor
    """[R] tokens each row may write."""
    seed: int
    prompt_costs: list[int]
    """Bytes that the keys and values of each prompt take."""
    row_cost: int
    """Bytes that a row takes beside its prompt."""

    def uniforms(self, live: Tensor, start: int, offset: Tensor) -> Tensor:
        """[R', UNIFORMS_AHEAD] from step `start` for rows `live` that draw their first token at `offset`."""
        steps = torch.arange(start, start + UNIFORMS_AHEAD)
        return uniforms(self.seed, self.rows[live], self.members[live], steps - offset[:, None])

    def admitted(self, first: int, live: Sequence[int], budget: int) -> int:
        """The end of the rows from `first` that have a place beside the rows `live`; one at least where none is
        live. Rows of one prompt come in together if they fit together at all.
        """
        prompts = {self.owners[i] for i in live}
        left = budget - len(live) * self.row_cost - sum(self.prompt_costs[u] for u in prompts)
        end = first
        while end < len(self.owners):
            owner = self.owners[end]
            after = next((i for i in range(end, len(self.owners)) if self.owners[i] != owner), len(self.owners))
            group = (after - end) * self.row_cost + self.prompt_costs[owner]
            if group <= left:
                end, left = after, left - group
                continue
            if group > budget:  # no place for all of them ever
                end += max(0, min(after - end, (left - self.prompt_costs[owner]) // self.row_cost))
            break
        return end if end > first or live else first + 1


@dataclass(frozen=True)
class Response:
    """What one row wrote."""

    ids: Tensor
    logps: Tensor
    ended: bool


class Pool:
    """Decodes `work` within a budget of bytes. What a row draws does not depend on the rows beside it."""

    def __init__(
        self,
        opened: Callable[[bool], Decoder],
        work: Work,
        sampling: Sampling,
        *,
        ends: Sequence[int],
        stops: StopStrings | None,
        budget: int,
    ):
        """`opened`: of whether rows share prompts. `ends`: tokens that end a response."""
        self._opened = opened
        self._work = work
        self._sampling = sampling
        self._ends = ends
        self._stops = stops
        self._budget = budget
        self._record = _Record(len(work.owners))
        self._waiting = 0
        """The first row that has had no place yet."""
        self._freed = False
        """Whether rows were dropped since the last were admitted."""

    def run(self) -> list[Response]:
        """Every row up to its first end token or string, or as much as it had room for."""
        while self._waiting < len(self._work.owners):
            self._fill(self._opened(len(self._work.prompts) < len(self._work.owners)))
        responses = self._record.responses(self._work.room, self._ends, self._stops)
        _check_finite(responses, self._work)
        return responses

    def _fill(self, decoder: Decoder) -> None:
        """Steps a decoder until no row grows in it."""
        # not `inference_mode(False)`, which would turn gradients on
        with torch.inference_mode() if decoder.pure else torch.no_grad():
            self._run(decoder)

    def _run(self, decoder: Decoder) -> None:
        self._record.restart()
        self._live = torch.empty(0, dtype=torch.int64)
        self._offset = torch.empty(0, dtype=torch.int64)
        """Of each live row: the step at which it draws its first token."""
        self._step = 0
        logits = self._admit(decoder)
        assert logits is not None
        device = logits.device
        self._done = torch.zeros(len(self._live), dtype=torch.bool, device=device)
        self._full = (self._work.room[self._live] + self._offset).to(device)
        """Of each live row: the step at which it has no more room."""
        ends = torch.zeros(logits.shape[1], dtype=torch.bool)
        ends[torch.tensor([i for i in self._ends if i < len(ends)], dtype=torch.int64)] = True
        ends = ends.to(device)
        while True:
            at = self._step % UNIFORMS_AHEAD
            if at == 0:
                self._ahead = self._work.uniforms(self._live, self._step, self._offset).to(device)
            tokens, logps = draw(logits, self._ahead[:, at], self._sampling)
            self._record.add(tokens, logps)
            self._mark(decoder, tokens, ends)
            if device.type == "cpu" or decoder.delay is not None or self._step % CHECK_EVERY == 0:
                rows = self._dropping(decoder)
                if rows is not None and len(rows) == 0:
                    break
                tokens = self._drop(decoder, rows, tokens)
            logits = decoder.step(tokens)
            self._step += 1
            more = self._admit(decoder)
            if more is not None:
                logits = torch.cat([logits, more])
        self._record.close(self._live, self._offset)

    def _admit(self, decoder: Decoder) -> Tensor | None:
        """Gives waiting rows their places and returns their first logits; None where there is no place."""
        work, first = self._work, self._waiting
        closed = decoder.delay is not None or not self._freed
        if first == len(work.owners) or (self._step and closed):
            return None
        self._freed = False
        end = work.admitted(first, self._live.tolist(), self._budget)
        if end == first:
            return None
        trees = sorted({work.owners[i] for i in range(first, end)})
        owners = [trees.index(work.owners[i]) for i in range(first, end)]
        if self._step:
            self._record.close(self._live, self._offset)
        new = torch.arange(first, end)
        logits = decoder.add([work.prompts[u] for u in trees], owners, int(work.room[new].max()))
        offset = torch.full((end - first,), self._step) if decoder.delay is None else decoder.delay.cpu()
        if self._step:
            block = self._step - self._step % UNIFORMS_AHEAD
            ahead = work.uniforms(new, block, offset).to(logits.device)
            self._ahead = torch.cat([self._ahead, ahead])
            self._done = torch.cat([self._done, self._done.new_zeros(len(new))])
            self._full = torch.cat([self._full, (work.room[new] + offset).to(logits.device)])
        self._live, self._offset = torch.cat([self._live, new]), torch.cat([self._offset, offset])
        self._waiting = end
        return logits

    def _mark(self, decoder: Decoder, tokens: Tensor, ends: Tensor) -> None:
        """Notes which rows this step's token ends or fills."""
        over = ends[tokens]
        if self._stops is not None:
            # rows that are over but not dropped yet go on drawing: what they draw is no part of their response
            drawn = ((self._offset <= self._step) & ~self._done.cpu()).nonzero().squeeze(1)
            places, new = self._live[drawn].tolist(), tokens.cpu()[drawn].tolist()
            over[drawn[self._stops.add(places, new)].to(over.device)] = True
        if decoder.delay is not None:
            over &= self._offset.to(over.device) <= self._step
        self._done |= over
        self._done |= self._full <= self._step + 1

    def _dropping(self, decoder: Decoder) -> Tensor | None:
        """The rows to go on with; None: all."""
        growing = len(self._done) - int(self._done.sum())
        if growing == 0:
            return torch.empty(0, dtype=torch.int64)
        kept = growing
        if decoder.delay is None:
            step = ROWS_IN_STEP if growing > ROWS_IN_STEP // 2 else 1
            kept = -(-growing // step) * step
            if kept > SHRINK_AT * len(self._done):
                return None
        elif growing == len(self._done):
            return None
        staying = ~self._done
        staying |= self._done & (self._done.cumsum(0) <= kept - growing)
        return staying.nonzero().squeeze(1)

    def _drop(self, decoder: Decoder, rows: Tensor | None, tokens: Tensor) -> Tensor:
        """Drops all rows but `rows`; `tokens` of those that are left."""
        self._freed = rows is not None
        if rows is None:
            return tokens
        self._record.close(self._live, self._offset)
        decoder.keep(rows)
        kept = rows.cpu()
        self._live, self._offset = self._live[kept], self._offset[kept]
        self._done, self._full, self._ahead = self._done[rows], self._full[rows], self._ahead[rows]
        return tokens[rows]


class _Record:
    """Tokens and log-probabilities of all rows, written a step at a time."""

    def __init__(self, rows: int):
        self._rows = rows
        self._blocks: list[tuple[Tensor, Tensor, Tensor]] = []
        """(rows [R'], positions [S, R'], tokens and log-probabilities stacked [2, S, R'] float64)."""
        self._tokens: list[Tensor] = []
        self._logps: list[Tensor] = []
        self._start = 0
        self._dtype = torch.float32

    def restart(self) -> None:
        """Steps are counted from 0 again."""
        self._start = 0

    def add(self, tokens: Tensor, logps: Tensor) -> None:
        self._tokens.append(tokens)
        self._logps.append(logps)

    def close(self, live: Tensor, offset: Tensor) -> None:
        """Ends a stretch of steps over which the same rows were decoded."""
        if not self._tokens:
            return
        steps = torch.arange(self._start, self._start + len(self._tokens))[:, None]
        both = torch.stack([torch.stack(self._tokens).double(), torch.stack(self._logps).double()])
        self._blocks.append((live, steps - offset, both.cpu()))
        self._start += len(self._tokens)
        self._dtype = self._logps[0].dtype
        self._tokens, self._logps = [], []

    def responses(self, room: Tensor, ends: Sequence[int], stops: StopStrings | None) -> list[Response]:
        """Each row up to its first end, or as much as it had room for."""
        width = int(room.max())
        written = torch.zeros(2, self._rows, width, dtype=torch.float64)
        for live, positions, both in self._blocks:
            inside = (positions >= 0) & (positions < width)
            written[:, live.expand_as(positions)[inside], positions[inside]] = both[:, inside]
        tokens, logps = written[0].long(), written[1].to(self._dtype)
        over = torch.isin(tokens, torch.tensor(ends, dtype=torch.int64))
        for row, length in stops.ended.items() if stops is not None else ():
            over[row, length - 1] = True
        over &= torch.arange(width) < room[:, None]
        ended = over.any(dim=1)
        lengths = torch.where(ended, over.int().argmax(dim=1) + 1, room).tolist()
        return [
            Response(tokens[i, :length].clone(), logps[i, :length].clone(), over)
            for i, (length, over) in enumerate(zip(lengths, ended.tolist(), strict=True))
        ]


def _check_finite(responses: Sequence[Response], work: Work) -> None:
    for i, response in enumerate(responses):
        if not bool(torch.isfinite(response.logps).all()):
            raise TastemakerError(
                f"the model gave logits that are not finite while completing row {int(work.rows[i])} "
                f"(sample {int(work.members[i])}); its weights have probably diverged: lower the learning "
                "rate, or generate in a wider dtype"
            )
