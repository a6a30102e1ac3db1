"""From segments of text to token ids, in batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from tastemaker.data.problems import Unusable
from tastemaker.data.rendering import Rendered, Segment

_ANCHORS = ("\n", ".", "a", "1", ",")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A response as ids. Lists of one length L."""

    ids: list[int]
    trained: list[bool]
    closes_step: list[bool]
    ended: bool

    def cut(self, length: int) -> Encoded:
        """The first `length` tokens; what is cut loses its end token."""
        if length >= len(self.ids):
            return self
        return Encoded(self.ids[:length], self.trained[:length], self.closes_step[:length], False)


class Encoder:
    """Text to ids with a transformers tokenizer, without any special token but those of the text.

    A text that continues another must not get the space that SentencePiece-like tokenizers put before a
    text: it is tokenised behind a short anchor, whose ids are then taken off.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._ids: dict[tuple[str, bool], list[int] | str] = {}

    # --------------------------------------------------------------------------- what the tokenizer does

    @cached_property
    def bos_id(self) -> int | None:
        return cast(int | None, self.tokenizer.bos_token_id)

    @cached_property
    def eos_id(self) -> int | None:
        return cast(int | None, self.tokenizer.eos_token_id)

    @cached_property
    def unknown_id(self) -> int | None:
        """The id of text that the tokenizer has no token for; none where nothing else is written with it."""
        unknown = cast(int | None, self.tokenizer.unk_token_id)
        others = (self.bos_id, self.eos_id, self.tokenizer.pad_token_id)
        return None if unknown in others else unknown

    @cached_property
    def prefix(self) -> list[int]:
        """What the tokenizer itself writes before plain text, e.g. [bos]; [] where it writes nothing."""
        bare = self._plain([self._probe])[0]
        full = [int(i) for i in self.tokenizer(self._probe)["input_ids"]]
        at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
        return full[:at]

    @cached_property
    def empty_prompt(self) -> tuple[int, str]:
        """(id, name) of the one token that stands for an empty prompt: bos, else eos, else pad."""
        for name in ("bos", "eos", "pad"):
            index = getattr(self.tokenizer, f"{name}_token_id", None)
            if index is not None:
                return int(index), f"{getattr(self.tokenizer, f'{name}_token')} ({name})"
        return 0, "token 0"

    @cached_property
    def sha256(self) -> str:
        """Of the whole tokenizer where it can be written out, else of its vocabulary."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            text = backend.to_str()
        else:
            text = json.dumps(sorted(self.tokenizer.get_vocab().items()))
        special = json.dumps({k: str(v) for k, v in self.tokenizer.special_tokens_map.items()}, sort_keys=True)
        return hashlib.sha256((text + special).encode()).hexdigest()

    @cached_property
    def _probe(self) -> str:
        """A text that this tokenizer can encode; small vocabularies may not know any one letter."""
        vocabulary = sorted(cast(dict[str, int], self.tokenizer.get_vocab()).items(), key=lambda item: item[1])
        for text in ("a", *(token for token, _ in vocabulary[:200] if token.isalnum())):
            ids = self._one(text)
            if isinstance(ids, list) and ids and self.tokenizer.unk_token_id not in ids:
                return text
        return "a"

    @cached_property
    def _anchors(self) -> tuple[tuple[str, list[int]], ...]:
        """Anchors that leave what follows them as it reads; none where no anchor is needed or helps."""
        probe = self._probe
        alone = self._one(probe)
        if not isinstance(alone, list) or self._decode(alone + alone) == probe + probe:
            return ()
        good: list[tuple[str, list[int]]] = []
        for anchor in _ANCHORS:
            ids, both = self._one(anchor), self._one(anchor + probe)
            if not isinstance(ids, list) or not isinstance(both, list) or not ids or both[: len(ids)] != ids:
                continue
            if self._decode(both) == anchor + probe and both[len(ids) :] != alone:
                good.append((anchor, ids))
        return tuple(good)

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    # ------------------------------------------------------------------------------------- encoding

    def learn(self, batch: Iterable[Rendered]) -> None:
        """Tokenises every segment of a batch at once; `prompt` and `response` then only look up."""
        self._ids = {}
        wanted: dict[tuple[str, bool], None] = {}
        for rendered in batch:
            wanted |= dict.fromkeys((s.text, i > 0) for i, s in enumerate(rendered.prompt))
            for response in rendered.responses:
                wanted |= dict.fromkeys(
                    (s.text, i > 0 or bool(rendered.prompt)) for i, s in enumerate(response)
                )
        keys = list(wanted)
        anchor = self._anchors[0] if self._anchors else ("", [])
        texts = [anchor[0] + text if continues else text for text, continues in keys]
        for key, ids in zip(keys, self._many(texts), strict=True):
            self._ids[key] = self._without_anchor(key[0], ids) if key[1] and anchor[0] else ids

    def _without_anchor(self, text: str, ids: list[int] | str) -> list[int] | str:
        for anchor, head in self._anchors:
            found = ids if anchor == self._anchors[0][0] else self._one(anchor + text)
            if isinstance(found, list) and found[: len(head)] == head:
                return found[len(head) :]
        return self._one(text)

    def _many(self, texts: list[str]) -> list[list[int] | str]:
        if not texts:
            return []
        try:
            return list(self._plain(texts))
        except Exception:
            # Tokenizers written in Rust raise a bare Exception; one text among many is at fault, so each
            # is tried alone and only that row is lost.
            return [self._one(text) for text in texts]

    def _one(self, text: str) -> list[int] | str:
        try:
            return self._plain([text])[0]
        except Exception as error:
            return f"the tokenizer cannot encode it: {error}"

    def _plain(self, texts: list[str]) -> list[list[int]]:
        # Not verbose: lengths are checked here, and a warning about the model's limit would only mislead.
        found = self.tokenizer(texts, add_special_tokens=False, verbose=False)
        return [[int(i) for i in ids] for ids in found["input_ids"]]

    def prompt(self, rendered: Rendered) -> tuple[list[int], int, int]:
        """(ids, leading tokens to keep when the prompt is cut from the left, doubled BOS taken off).

        The prompt begins as the tokenizer begins a text: a template that leaves BOS out gets it, one that
        writes it where the tokenizer does too does not get two. An empty prompt is one BOS.
        """
        ids = [i for n, s in enumerate(rendered.prompt) for i in self._look_up(s, n > 0)]
        doubled = 0
        while self.bos_id is not None and ids[:2] == [self.bos_id, self.bos_id]:
            ids, doubled = ids[1:], doubled + 1
        if not ids:
            ids = self.prefix or [self.empty_prompt[0]]
            return list(ids), len(ids), doubled
        if self.prefix and ids[: len(self.prefix)] != self.prefix:
            return [*self.prefix, *ids], len(self.prefix), doubled
        kept = len(self.prefix) or int(self.bos_id is not None and ids[0] == self.bos_id)
        return ids, kept, doubled

    def response(self, rendered: Rendered, k: int) -> Encoded:
        """Response k with exactly one end token, where the tokenizer has one."""
        ids: list[int] = []
        trained: list[bool] = []
        steps: list[bool] = []
        for n, segment in enumerate(rendered.responses[k]):
            found = self._look_up(segment, n > 0 or bool(rendered.prompt))
            ids += found
            trained += [segment.trained] * len(found)
            steps += [False] * len(found)
            if segment.closes_step and steps:
                steps[-1] = True
        if not ids:
            raise Unusable("no token is left of its response")
        ended = rendered.ended[k]
        if not ended and self.eos_id is not None:
            if ids[-1] != self.eos_id:
                ids, trained, steps = [*ids, self.eos_id], [*trained, True], [*steps, False]
            ended = True
        return Encoded(ids, trained, steps, ended)

    def _look_up(self, segment: Segment, continues: bool) -> list[int]:
        found = self._ids[segment.text, continues]
        if isinstance(found, str):
            raise Unusable(found)
        return found
