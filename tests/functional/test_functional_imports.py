"""The mathematics needs torch alone, and says exactly what it offers."""

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import tastemaker.functional as functional


def test_it_imports_and_runs_with_torch_alone() -> None:
    script = """
        import sys
        absent = ("numpy", "scipy", "sklearn", "transformers", "peft", "pydantic", "datasets", "tokenizers")
        for name in absent:
            sys.modules[name] = None  # importing it raises ImportError
        import torch
        import tastemaker.functional as functional
        hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
        logps, entropy = functional.chunked_logps(hidden, weight, None, torch.tensor([0, 1, 4]), entropy=True)
        logps.sum().backward()
        functional.gae(logps.detach(), entropy, torch.tensor([1, 2]), gamma=1.0, gae_lambda=0.95)
        functional.paired_interval([torch.randn(4), torch.randn(4)], shared_prompts=False)
        loaded = {name for name in sys.modules if name.startswith("tastemaker")}
        others = {n for n in loaded if n != "tastemaker" and not n.startswith("tastemaker.functional")}
        assert not others, others
        assert "tastemaker.functional.statistics" in loaded
        print("alone")
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "alone"


def test_all_names_exactly_what_is_imported() -> None:
    source = ast.parse(Path(functional.__file__).read_text(encoding="utf-8"))
    imported = [a.name for node in source.body if isinstance(node, ast.ImportFrom) for a in node.names]
    assert sorted(imported) == sorted(functional.__all__)
    assert all(getattr(functional, name).__doc__ for name in functional.__all__)
