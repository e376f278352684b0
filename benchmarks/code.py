"""Print how large the code is and how it hangs together: python benchmarks/code.py"""

import ast
import re
import tokenize
from collections import Counter
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "captioning"
LIBRARY_PRIVATE = {
    "Lightning's": re.compile(
        r"from lightning\.[\w.]+ import [^\n]*\b_[a-zA-Z]|(?:trainer|loop|strategy)\b[\w.]*\._[a-z]"
        r"|\b_(?:launcher|data_parallel_size|call_children_scripts|reset_optimizers_and_schedulers|logger_connector"
        r"|configure_launcher|wandb_init|validate_srun_variables)\b"
    ),
    "Hydra's": re.compile(
        r"(?:from|import) hydra(?!_plugins)\.(?:_internal|core\.override_parser|core\.plugins|core\.utils)"
    ),
}


def code_lines(path: Path) -> tuple[int, int]:
    """Lines with code (neither blank, nor comments, nor docstrings), and lines of docstrings."""
    source = path.read_text(encoding="utf-8")
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            node.body and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)
        ):
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    code: set[int] = set()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in (*skipped, tokenize.ENCODING):
                code |= set(range(token.start[0], token.end[0] + 1))
    blank = {number for number, line in enumerate(source.splitlines(), 1) if not line.strip()}
    return len(code - docstrings - blank), len(docstrings)


def imports(paths: list[Path]) -> dict[str, set[str]]:
    """Which module imports which, lazy imports counted, those for types alone not."""
    names = {}
    for path in paths:
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    edges: dict[str, set[str]] = {name: set() for name in names}
    for name, path in names.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for_types = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and id(node) not in for_types:
                for alias in node.names:
                    target = f"{node.module}.{alias.name}"
                    target = target if target in names else node.module
                    if target in names and target != name:
                        edges[name].add(target)
    return edges


def longest_chain(edges: dict[str, set[str]]) -> tuple[list[str], list[list[str]]]:
    """The longest chain of imports (modules in a cycle counted once), and the cycles."""
    reach = {name: _reachable(edges, name) for name in edges}
    cycles = {
        tuple(sorted(other for other in reach[name] if name in reach[other])) for name in edges if name in reach[name]
    }
    group = {name: cycle for cycle in cycles for name in cycle}

    @cache
    def chain(name: str) -> tuple[str, ...]:
        below = [
            t for n in group.get(name, (name,)) for t in edges[n] if group.get(t, (t,)) != group.get(name, (name,))
        ]
        return (name, *max((chain(target) for target in below), key=len, default=()))

    return list(max((chain(name) for name in edges), key=len)), [list(cycle) for cycle in cycles]


def _reachable(edges: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    ahead = list(edges[start])
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead += edges[name]
    return found


def private_functions(trees: list[ast.Module]) -> tuple[int, int]:
    """Private functions of modules that are called from one place, and all of them."""
    once = total = 0
    for tree in trees:
        names = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
        private = [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("_")]
        once += sum(names[name] <= 1 for name in private)
        total += len(private)
    return once, total


def main() -> None:
    """Count, and print a line for each number."""
    paths = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "src" / "hydra_plugins").rglob("*.py")])
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    code, docstrings = (sum(column) for column in zip(*map(code_lines, paths), strict=True))
    edges = imports([path for path in paths if PACKAGE in path.parents])
    chain, cycles = longest_chain(edges)
    once, private = private_functions(trees)
    nodes = [node for tree in trees for node in ast.walk(tree)]
    clauses = sum(isinstance(node, ast.ExceptHandler) for node in nodes)
    anys = sum(isinstance(node, ast.Name) and node.id == "Any" for node in nodes)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = {
        "Python files directly in src/captioning": len(list(PACKAGE.glob("*.py"))),
        "longest chain of imports": f"{len(chain)} ({' > '.join(name.removeprefix('captioning.') for name in chain)})",
        "import cycles": f"{len(cycles)} {cycles or ''}",
        "code lines in src": f"{code:,}",
        "private functions used in one place": f"{once} of {private} ({once / private:.0%})",
        "except clauses per 100 code lines": f"{100 * clauses / code:.2f} ({clauses})",
        "Any": anys,
        "docstring lines per 100 code lines": f"{100 * docstrings / code:.1f}",
        "README": f"{len(readme.splitlines())} lines, {len(readme.split()):,} words",
    }
    for whose, pattern in LIBRARY_PRIVATE.items():
        leaning = [str(p.relative_to(PACKAGE.parent)) for p in paths if pattern.search(p.read_text(encoding="utf-8"))]
        rows[f"files that lean on {whose} private side"] = f"{len(leaning)} ({', '.join(leaning)})"
    for name, value in rows.items():
        print(f"{name:42} {value}")


if __name__ == "__main__":
    main()
