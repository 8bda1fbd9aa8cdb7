"""The direction of imports: packages in one order, no cycle of files or packages.

Every import counts: at module level, inside a function, and for types only, which still ties two files
together. A string that names a module, as importlib takes it, must follow the order too. It makes no cycle:
a registry may list the modules that register with it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOTS = ("blocks", "arch_lab", "experiments")
# packages of arch_lab, each importing only those before it and the modules directly under arch_lab
ORDER = (
    *("models", "accounting", "budget", "laws", "data", "metrics", "training", "checkpoints", "generation"),
    *("judge", "study", "report", "bench", "cli"),
)
# what still breaks a rule; an entry that is no longer needed fails, so these lists only shrink
UNPLACED: set[str] = set()  # packages that the design has no place for
UPWARD: set[tuple[str, str]] = set()
FILE_CYCLES: set[tuple[str, ...]] = set()
PACKAGE_CYCLES: set[tuple[str, ...]] = set()

Graph = Mapping[str, set[str]]


def graph_of(root: Path, *, strings: bool = False) -> Graph:
    """Files below ``root`` and the files that each imports; with ``strings`` also those that it names."""
    paths = [path for name in ROOTS for path in sorted((root / name).rglob("*.py"))]
    files = {path.relative_to(root).as_posix(): path for path in paths}
    graph = {}
    for file, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imports = {*imported_files(tree, file, files), *(named_files(tree, files) if strings else ())}
        graph[file] = imports - {file}
    return graph


def imported_files(tree: ast.AST, file: str, files: Iterable[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from module_files(alias.name, files)
        elif isinstance(node, ast.ImportFrom):
            folders = file.split("/")[: -node.level] if node.level else []
            module = ".".join([*folders, *filter(None, [node.module])])
            for alias in node.names:
                yield from list(module_files(f"{module}.{alias.name}", files)) or module_files(module, files)


def named_files(tree: ast.AST, files: Iterable[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            file = (
                f"{node.value.partition(':')[0].replace('.', '/')}.py"  # no package: loggers have such names
            )
            if file in files:
                yield file


def module_files(module: str, files: Iterable[str]) -> Iterator[str]:
    base = module.replace(".", "/")
    return (file for file in (f"{base}.py", f"{base}/__init__.py") if file in files)


def package_of(file: str) -> str:
    """Two levels deep, ``arch_lab/study``; a file directly under a root stands for itself."""
    return "/".join(file.split("/")[:2])


def rank(name: str) -> int:
    """Place in the order of what lies directly under arch_lab: packages, the modules below them, the top."""
    if name in ("__init__.py", "__main__.py"):
        return len(ORDER) + 1
    return 0 if name.endswith(".py") else 1 + ORDER.index(name)


def upward(graph: Graph) -> set[tuple[str, str]]:
    """Arrows against the order: a file of arch_lab, and the package that it must not import."""
    arrows = [(file, target) for file in graph for target in graph[file]]
    arrows = [(a, b) for a, b in arrows if a.startswith("arch_lab/") and b.startswith("arch_lab/")]
    names = [(a, a.split("/")[1], b.split("/")[1]) for a, b in arrows]
    placed = [(a, source, target) for a, source, target in names if not {source, target} & UNPLACED]
    return {(a, target) for a, source, target in placed if rank(target) > rank(source)}


def cycles(graph: Graph) -> set[tuple[str, ...]]:
    """Groups of nodes that reach each other, sorted."""

    @cache
    def reached(start: str) -> frozenset[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            new = graph.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        return frozenset(seen)

    groups = ({node, *(other for other in reached(node) if node in reached(other))} for node in graph)
    return {tuple(sorted(group)) for group in groups if len(group) > 1}


def by_package(graph: Graph) -> Graph:
    packages: dict[str, set[str]] = {}
    for file, imports in graph.items():
        packages.setdefault(package_of(file), set()).update(map(package_of, imports))
    return {package: imports - {package} for package, imports in packages.items()}


def check(broken: set[tuple[str, ...]], allowed: set[tuple[str, ...]]) -> None:
    wrong, stale = sorted(broken - allowed), sorted(allowed - broken)
    assert not wrong, "these break the rule"
    assert not stale, "these no longer break it; delete them from the list above"


@pytest.fixture(scope="module")
def project() -> Graph:
    graph = graph_of(ROOT)
    assert len(graph) > 100
    return graph


def test_every_package_of_arch_lab_has_a_place_in_the_order(project: Graph) -> None:
    inner = [file for file in project if file.startswith("arch_lab/") and file.count("/") > 1]
    packages = {file.split("/")[1] for file in inner}
    assert packages == {*ORDER, *UNPLACED}


def test_no_file_imports_against_the_order_of_packages() -> None:
    check(upward(graph_of(ROOT, strings=True)), UPWARD)


def test_no_files_import_each_other_in_a_circle(project: Graph) -> None:
    check(cycles(project), FILE_CYCLES)


def test_no_packages_import_each_other_in_a_circle(project: Graph) -> None:
    check(cycles(by_package(project)), PACKAGE_CYCLES)


@pytest.mark.parametrize(
    "text",
    [
        "import arch_lab.study.engine",
        "from arch_lab.study import engine",
        "def later():\n    from arch_lab.study.engine import compare",
        "if TYPE_CHECKING:\n    from arch_lab.study.engine import Study",
    ],
    ids=["module", "name", "function", "types"],
)
def test_an_import_in_any_form_is_seen(text: str, tmp_path: Path) -> None:
    write(tmp_path, {"models/decoder.py": text, "study/engine.py": "from arch_lab.models import decoder"})
    graph = graph_of(tmp_path)
    assert upward(graph) == {("arch_lab/models/decoder.py", "study")}
    assert cycles(graph) == {("arch_lab/models/decoder.py", "arch_lab/study/engine.py")}
    assert cycles(by_package(graph)) == {("arch_lab/models", "arch_lab/study")}


def test_a_module_named_in_a_string_must_follow_the_order(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"models/__init__.py": "HOMES = {'plan': 'arch_lab.study.engine:plan'}", "study/engine.py": ""},
    )
    assert upward(graph_of(tmp_path, strings=True)) == {("arch_lab/models/__init__.py", "study")}


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        path = root / "arch_lab" / name
        path.parent.mkdir(parents=True)
        path.write_text(content, encoding="utf-8")
