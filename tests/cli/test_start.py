"""Help and errors of the command line come at once: without torch, without a traceback."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tastemaker
from tastemaker.cli.commands import commands

PROBE = """
import sys
from tastemaker.cli import main
code = main(sys.argv[1:])
heavy = [m for m in ("torch", "transformers", "peft", "numpy", "datasets") if m in sys.modules]
sys.stderr.write(f"\\nimported: {heavy}\\n")
sys.stderr.write(f"checked by pydantic: {'pydantic' in sys.modules}\\n")
sys.exit(code)
"""


def started(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROBE, *argv], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "argv", [("--help",), ("dpo", "--help"), ("compare", "--help"), ("methods",), ("--version",)]
)
def test_help_works_without_torch(argv: tuple[str, ...]):
    ended = started(*argv)
    assert ended.returncode == 0, ended.stderr
    assert "imported: []" in ended.stderr
    assert "checked by pydantic: False" in ended.stderr, "help has nothing to check"
    assert ended.stdout.strip()


@pytest.mark.parametrize(
    "argv, says",
    [
        (("dpo", "--betta", "1"), "--betta: no such setting; did you mean --beta?"),
        (("dpo", "--model", "m", "--data", "d", "--max-steps", "x"), "max_steps = 'x': should be whole number"),
        (("compare", "--dpo.betta", "1"), "--dpo.betta: no such setting; did you mean beta?"),
        (("ppo", "--model", "m"), "missing: --data, --reward"),
        (("dop",), "dop: no such command; did you mean dpo?"),
    ],
)
def test_errors_in_flags_come_without_torch(argv: tuple[str, ...], says: str):
    ended = started(*argv)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert "imported: []" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_python_dash_m_and_a_reader_that_goes_away():
    ended = subprocess.run(
        f"{sys.executable} -m tastemaker ppo --help | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.startswith("PPO")
    assert "Traceback" not in ended.stderr
    assert "BrokenPipe" not in ended.stderr


@pytest.mark.parametrize("name", commands())
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]):
    commands()[name].run(["--help"])
    shown = capsys.readouterr().out
    assert f"usage  tastemaker {name}" in shown
    for option in commands()[name].options():
        assert option.text, f"--{option.name} has no description"
        assert f"{option.name.replace('_', '-')} " in shown


def test_the_version_is_the_packages():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert tastemaker.__version__ == project["version"]
