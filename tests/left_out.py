"""Which tests of systems a run left out, and why: shown at its end, as nobody reads a number among thousands."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONTRACT = ROOT / "src" / "olivine" / "testing" / "system.py"


def lines(skipped):
    """A line for each system and reason. skipped: reports of tests, or of whole files of them."""
    left_out = Counter()
    for report in skipped:
        path, _, test = report.nodeid.partition("::")
        if Path(path).parts[:2] == ("tests", "systems"):
            system, reason = Path(path).stem.removeprefix("test_"), report.longrepr[2].removeprefix("Skipped: ")
            kind = test.partition("::")[0] if "::" in test else ""  # the class of a contract
            left_out[f"{system} {kind}".strip(), reason] += 1 if test else n_tests(ROOT / path)
    return [f"{system}: {n} left out: {reason}" for (system, reason), n in sorted(left_out.items())]


def n_tests(path):
    """How many tests a file has, those of the contract once for each class that keeps to it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    derived = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name.startswith("Test")]
    kept = sum(any(ast.unparse(base) == "SystemContract" for base in node.bases) for node in derived)
    return _n_functions(tree) + (kept * _n_functions(ast.parse(CONTRACT.read_text(encoding="utf-8"))) if kept else 0)


def _n_functions(tree):
    return sum(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in ast.walk(tree))
