"""The list of all commands: ``python -m experiments``."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent

FOLDERS = {".": "commands", "studies": "studies of many searches or trainings", "build": "what the package ships"}


def commands(folder: Path) -> dict[str, str]:
    """Return the commands in a folder: module -> the first line of its docstring, without the command line."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
            summary = (ast.get_docstring(tree) or "").partition("\n")[0]
            # The first line of a docstring ends with the command line.
            found[module] = re.split(r"[:?.]? ?`{1,2}python -m", summary)[0].rstrip(".:")
    found.pop("experiments.__main__", None)
    return found


def main() -> None:
    """Print every command with a summary in one line."""
    for folder, title in FOLDERS.items():
        print(f"{title}:")
        for module, summary in commands(ROOT / folder).items():
            print(f"  python -m {module:<34} {summary}")
    print("python -m NAME --help explains a command's options")


if __name__ == "__main__":
    main()
