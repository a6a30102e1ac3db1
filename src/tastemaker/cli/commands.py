"""All commands by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from tastemaker.cli.anatomy import ANATOMY
from tastemaker.cli.audit import AUDIT
from tastemaker.cli.catalogue import declared_methods
from tastemaker.cli.claims import CLAIMS_COMMAND
from tastemaker.cli.command import Command
from tastemaker.cli.evaluate import EVALUATE
from tastemaker.cli.judging import CONSTITUTION, JUDGE, STUDY
from tastemaker.cli.looking import EXPORT, METHODS_LIST, RUNS
from tastemaker.cli.plan import PLAN
from tastemaker.cli.receipt import RECEIPT
from tastemaker.cli.rounds import ROUNDS
from tastemaker.cli.sampling import SAMPLE
from tastemaker.cli.studio import LABELS_COMMAND, STUDIO, WITHDRAW
from tastemaker.cli.training import COMPARE, RUN, method_command


@cache
def commands() -> Mapping[str, Command]:
    """Every method is a command."""
    methods = [method_command(m) for m in declared_methods().values()]
    return {
        c.name: c
        for c in (
            COMPARE,
            *methods,
            SAMPLE,
            RUN,
            ROUNDS,
            RECEIPT,
            AUDIT,
            PLAN,
            EVALUATE,
            ANATOMY,
            CLAIMS_COMMAND,
            JUDGE,
            CONSTITUTION,
            STUDY,
            RUNS,
            EXPORT,
            METHODS_LIST,
            STUDIO,
            LABELS_COMMAND,
            WITHDRAW,
        )
    }
