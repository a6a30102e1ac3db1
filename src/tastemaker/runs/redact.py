"""Secrets never reach a file: tokens, keys and passwords are replaced before anything is written."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Mapping, Sequence

REDACTED = "[redacted]"

# A bound on every repetition keeps matching linear on long texts.
_TOKENS = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{16,256}"  # Hugging Face
    r"|sk-[A-Za-z0-9_-]{16,256}"  # OpenAI, Anthropic and others
    r"|gh[pousr]_[A-Za-z0-9]{20,256}|github_pat_[A-Za-z0-9_]{20,256}"  # GitHub
    r"|glpat-[A-Za-z0-9_-]{16,256}"  # GitLab
    r"|xox[a-z]-[A-Za-z0-9-]{10,256}"  # Slack
    r"|AKIA[A-Z0-9]{16}"  # AWS
    r"|AIza[A-Za-z0-9_-]{30,256}"  # Google
    r")"
)
# A word follows "bearer" in prose too: only what looks like a token is taken.
_BEARER = re.compile(r"\b(bearer\s{1,8})(?=[^\s\d]{0,256}\d|\S{16})[A-Za-z0-9._~+/=-]{8,4096}", re.IGNORECASE)
_URL = re.compile(r"(?<![A-Za-z])([A-Za-z][A-Za-z0-9+.-]{1,30}://[^\s/:@]{0,256}:)[^\s/]{1,512}@")
_SECRET_KEY = re.compile(
    r"(?:^|[_-])(?:password|passwd|secret|credentials?|api[_-]?key|(?:access|auth|hub|hf|api)[_-]token|authorization)$",
    re.IGNORECASE,
)
_SECRET_VARIABLE = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIALS?)$", re.IGNORECASE
)
_SHORTEST = 12
"""Shorter values of environment variables are as likely to be ordinary words."""


def redact(value: object, secrets: Collection[str] = ()) -> object:
    """`value` (plain JSON data) without secrets.

    Text loses what looks like a token and every string of `secrets`; a key that names a secret
    (`password`, `api_key`, ...) loses its whole text.
    """
    match value:
        case str():
            return redact_text(value, secrets)
        case dict():
            return {
                redact_text(str(k), secrets): REDACTED
                if isinstance(v, str) and v and _SECRET_KEY.search(str(k))
                else redact(v, secrets)
                for k, v in value.items()
            }
        case list() | tuple():
            return [redact(v, secrets) for v in value]
        case _:
            return value


def redact_text(text: str, secrets: Collection[str] = ()) -> str:
    """`text` without what looks like a token or URL password, and without any of `secrets`."""
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    text = _TOKENS.sub(REDACTED, text)
    text = _BEARER.sub(rf"\g<1>{REDACTED}", text)
    return _URL.sub(rf"\g<1>{REDACTED}@", text)


def redact_command(arguments: Sequence[str], secrets: Collection[str] = ()) -> str:
    """A command line as one would type it, without secrets: `--hub-token X` and `--api_key=X` lose X."""
    shown: list[str] = []
    hide = False
    for argument in arguments:
        flag, equals, _ = argument.partition("=")
        name = flag.lstrip("-")
        secret_flag = flag.startswith("-") and (name == "token" or _SECRET_KEY.search(name) is not None)
        if hide and not argument.startswith("--"):
            shown.append(REDACTED)
        elif secret_flag and equals:
            shown.append(f"{flag}={REDACTED}")
        else:
            shown.append(redact_text(argument, secrets))
        hide = secret_flag and not equals
    return shlex.join(shown)


def environment_secrets(environment: Mapping[str, str] = os.environ) -> frozenset[str]:
    """Values of environment variables that are secrets by their name (`HF_TOKEN`, `..._API_KEY`, ...)."""
    return frozenset(
        value
        for name, value in environment.items()
        if len(value) >= _SHORTEST and _SECRET_VARIABLE.search(name)
    )
