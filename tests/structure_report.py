"""Measures of the code base: `python -m tests.structure_report [ROOT]`.

Prints one line per measure: files, code lines, longest function, comment share, duplicate names,
docstrings that do not name their subject. `tests/training/test_loop.py` counts the files and frames
of one update.
"""

import ast
import sys
from pathlib import Path

from tests.layout_rules import (
    count_lines,
    duplicate_names,
    import_cycles,
    read_modules,
    vague_docstrings,
)


def main(root: Path) -> None:
    """Print the measures of nmt/ and cluster/ below `root`."""
    modules = read_modules(root, ("nmt", "cluster"))
    everything = read_modules(root, ("nmt", "cluster", "tools", "tests"))
    counts = count_lines(modules)
    functions = [
        ((node.end_lineno or 0) - node.lineno + 1, f"{module.path}: {node.name}")
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef)
    ]
    length, name = max(functions)
    print(f"files {len(modules)}")
    print(f"code lines {counts['code']:,} (without docstrings, comments and blanks)")
    print(f"files under 80 lines {sum(m.source.count(chr(10)) < 80 for m in modules)}")
    print(f"longest function {length} lines, {name}")
    print(f"comment lines per code line {counts['comments'] / counts['code']:.1%}")
    print(f"names that occur twice {len(list(duplicate_names(modules)))}")
    print(f"import cycles {len(list(import_cycles(modules)))}")
    num_vague = len(list(vague_docstrings(everything)))
    print(f"docstrings that open with a stand-in for a noun {num_vague}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
