"""A judge behind an OpenAI-compatible endpoint: retries, rate limits, concurrency, cost.

httpx2 is the client: it comes with huggingface-hub, so nothing is added to an installation, and what is needed
of the protocol is one request. Keys are read from an environment variable and are written nowhere.
"""

from __future__ import annotations

import json
import math
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from tastemaker.feedback.judge.asking import MAX_TOKENS, Ask, Reply, manner
from tastemaker.types import TastemakerError

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
"""Statuses that another try may mend."""
OF_THE_QUESTION = frozenset({400, 413, 422})
"""Statuses that are about one question: too long, not allowed."""
TOP = 20
"""Words whose log-probabilities are asked for; the most that OpenAI's protocol gives."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where to ask, and how patiently."""

    url: str
    """Up to and with /v1."""
    model: str
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; unset: none is sent."""
    temperature: float = 0.0
    max_tokens: int = MAX_TOKENS
    timeout: float = 60.0
    """Seconds for one answer."""
    retries: int = 5
    """Further tries after one that failed."""
    backoff: float = 0.5
    """Seconds before the first of them; each next waits twice as long (at most a minute), or as it is told."""
    concurrency: int = 8
    per_minute: float | None = None
    """Requests a minute; None: as many as come."""
    price_in: float = 0.0
    """Per million tokens read."""
    price_out: float = 0.0
    """Per million tokens written."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value}; it must be {allowed}"
            for name, value, holds, allowed in (
                (
                    "url",
                    self.url,
                    self.url.startswith(("http://", "https://")),
                    "an address http://... or https://...",
                ),
                ("model", self.model, bool(self.model), "the name by which the endpoint knows the model"),
                ("temperature", self.temperature, self.temperature >= 0, "0 or more"),
                ("max_tokens", self.max_tokens, self.max_tokens >= 1, "1 or more"),
                ("timeout", self.timeout, self.timeout > 0, "above 0"),
                ("retries", self.retries, self.retries >= 0, "0 or more"),
                ("concurrency", self.concurrency, self.concurrency >= 1, "1 or more"),
                ("per_minute", self.per_minute, self.per_minute is None or self.per_minute > 0, "above 0"),
            )
            if not holds
        ]
        if problems:
            raise TastemakerError("judge: " + "; ".join(problems))


class _Passing(Exception):
    """A try that failed and may be repeated. `after`: seconds the server asks to wait."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


@dataclass
class _Pace:
    """When the next request may go out, for all threads."""

    interval: float
    next: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def turn(self) -> float:
        """Seconds to wait for the next free turn."""
        with self.lock:
            now = time.monotonic()
            at = max(now, self.next)
            self.next = at + self.interval
            return at - now

    def hold(self, seconds: float) -> None:
        """Nobody asks before that."""
        with self.lock:
            self.next = max(self.next, time.monotonic() + seconds)


class HttpModel:
    """`JudgeModel` behind an OpenAI-compatible chat endpoint: vLLM, `transformers serve`, llama.cpp, hosted."""

    def __init__(self, endpoint: Endpoint, *, client: httpx2.Client | None = None) -> None:
        self._at = endpoint
        self._pace = _Pace(60.0 / endpoint.per_minute if endpoint.per_minute else 0.0)
        self._client = client
        self._stopped = threading.Event()

    @property
    def name(self) -> str:
        return f"{self._at.model} at {self._at.url}{manner(self._at.temperature, self._at.max_tokens)}"

    def answer(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        """As they come in. Raises TastemakerError with the first failure that no try mended; what the other
        connections were still waiting for is given first.
        """
        if not asks:
            return
        self._stopped.clear()
        with self._open() as client, ThreadPoolExecutor(self._at.concurrency) as pool:
            waiting: dict[Future[Reply], int] = {}
            upcoming = iter(enumerate(asks))
            failure: TastemakerError | None = None
            try:
                while True:
                    while failure is None and len(waiting) < self._at.concurrency:
                        index, ask = next(upcoming, (-1, None))
                        if ask is None:
                            break
                        waiting[pool.submit(self._ask, client, ask)] = index
                    if not waiting:
                        break
                    for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                        index = waiting.pop(done)
                        try:
                            yield index, done.result()
                        except TastemakerError as error:
                            failure = failure or error
                            self._stopped.set()
            finally:
                self._stopped.set()
            if failure is not None:
                raise failure

    def _open(self) -> httpx2.Client:
        if self._client is not None:
            return self._client
        key = os.environ.get(self._at.key_variable)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx2.Client(headers=headers, timeout=self._at.timeout)

    def _ask(self, client: httpx2.Client, ask: Ask) -> Reply:
        rng = random.Random(ask.tag)
        for attempt in range(self._at.retries + 1):
            self._sleep(self._pace.turn())
            try:
                return self._once(client, ask)
            except _Passing as failed:
                if attempt == self._at.retries or self._stopped.is_set():
                    tries = f"{attempt + 1} tries" if attempt else "one try"
                    raise TastemakerError(
                        f"judge {self._at.url}: {failed} (after {tries}). See that the endpoint is up, or "
                        "allow it more with --timeout, --retries, --concurrency or --per-minute."
                    ) from failed
                pause = min(60.0, self._at.backoff * 2**attempt) * (0.5 + rng.random())
                if failed.after is not None:
                    pause = failed.after
                    self._pace.hold(pause)
                self._sleep(pause)
        raise AssertionError("unreachable")

    def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            self._stopped.wait(seconds)

    def _once(self, client: httpx2.Client, ask: Ask) -> Reply:
        started = time.perf_counter()
        try:
            response = self._post(client, self._request(ask))
        except httpx2.TimeoutException as error:
            raise _Passing(f"no answer within {self._at.timeout:g} s") from error
        except httpx2.ConnectError as error:
            raise _Passing(f"cannot be reached ({error})") from error
        except httpx2.HTTPError as error:
            raise _Passing(f"the connection broke ({type(error).__name__}: {error})") from error
        if response.status_code in PASSING:
            raise _Passing(f"status {response.status_code}{_said(response)}", retry_after(response))
        if response.status_code in OF_THE_QUESTION:
            return Reply(refused=f"status {response.status_code}{_said(response)}")
        if response.status_code != 200:
            key = f" Is the key in {self._at.key_variable} right?" if response.status_code in (401, 403) else ""
            raise TastemakerError(
                f"judge {self._at.url}: status {response.status_code}{_said(response)}.{key} Correct the "
                "address, the model's name or the key."
            )
        return self._read(response, ask, time.perf_counter() - started)

    def _post(self, client: httpx2.Client, body: dict[str, Any]) -> httpx2.Response:
        """The client's own limit holds for each piece of an answer; here it holds for all of them together."""
        end = time.monotonic() + self._at.timeout
        url = f"{self._at.url.rstrip('/')}/chat/completions"
        with client.stream("POST", url, json=body) as response:
            pieces: list[bytes] = []
            for piece in response.iter_bytes():
                pieces.append(piece)
                if time.monotonic() > end:
                    raise httpx2.ReadTimeout("the answer came too slowly", request=response.request)
        kept = {name: value for name, value in response.headers.items() if name == "retry-after"}
        return httpx2.Response(response.status_code, headers=kept, content=b"".join(pieces))

    def _request(self, ask: Ask) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._at.model,
            "messages": [{"role": m.role, "content": m.content} for m in ask.messages],
            "temperature": self._at.temperature,
            "max_tokens": 1 if ask.logps else self._at.max_tokens,
            "seed": ask.seed,
        }
        return {**body, "logprobs": True, "top_logprobs": TOP} if ask.logps else body

    def _read(self, response: httpx2.Response, ask: Ask, seconds: float) -> Reply:
        try:
            body: Any = response.json()
            choice = body["choices"][0]
            text = choice["message"]["content"] or ""
            logps = _choice_logps(choice, ask.choices) if ask.logps else {}
            usage = body.get("usage") or {}
            tokens_in, tokens_out = (
                int(usage.get("prompt_tokens") or 0),
                int(usage.get("completion_tokens") or 0),
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            kind = "not whole JSON" if isinstance(error, json.JSONDecodeError) else "no chat completion"
            raise _Passing(f"answered with {kind}: {response.text[:80]!r}") from error
        if not isinstance(text, str):
            raise _Passing(f"answered with no text: {text!r}")
        cost = (tokens_in * self._at.price_in + tokens_out * self._at.price_out) / 1e6
        return Reply(
            text=text, logps=logps, tokens_in=tokens_in, tokens_out=tokens_out, cost=cost, seconds=seconds
        )


def retry_after(response: httpx2.Response) -> float | None:
    """Seconds that the header Retry-After asks for, as a number or a date; None without a sensible one."""
    value = response.headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, min(seconds, 3600.0))


def _choice_logps(choice: Any, choices: Sequence[str]) -> dict[str, float]:
    """Log-probability of each verdict as the first word: of all spellings that strip to it, together."""
    listed = ((choice.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs")
    if listed is None:
        raise TastemakerError(
            "judge: the endpoint gives no top_logprobs, so verdicts cannot be read off probabilities; judge by "
            "text (leave --logps out)"
        )
    found: dict[str, float] = {}
    for entry in listed:
        word, logp = str(entry["token"]).strip(), float(entry["logprob"])
        if word in choices:
            found[word] = logp if word not in found else _log_add(found[word], logp)
    return found


def _log_add(a: float, b: float) -> float:
    top = max(a, b)
    return top + math.log(math.exp(a - top) + math.exp(b - top))


def _said(response: httpx2.Response) -> str:
    """What the server says is wrong, shortened; never with line ends."""
    text = response.text
    try:
        body: Any = response.json()
        error = body.get("error", body) if isinstance(body, dict) else body
        text = str(error.get("message") or error.get("detail") or error if isinstance(error, dict) else error)
    except ValueError:
        pass
    text = " ".join(text.split())
    return f": {text[:200]}" if text else ""
