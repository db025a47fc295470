"""The shape of the code: layers, fences and sizes, read from the sources.

A finding is one line; the tests at the end feed bad sources to the same checker.
"""

import ast
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ovfuse"

# In the order in which data flows; serve and load never import each other.
LAYERS = (
    {"errors", "events", "keeping", "memory", "mountinfo", "quote", "secret"},
    {"sealed"},
    {"keys"},
    {"view"},
    {"serve", "load"},
    {"cli"},
)
RANKS = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
ENTRY_POINTS = {"ovfuse", "ovfuse.__main__"}  # may import every layer

FENCES = {
    "blake3": {"sealed", "keys"},
    "cryptography": {"sealed", "keys"},
    "pyrage": {"sealed", "keys"},
    "tpm2_pytss": {"keys"},
    "mfusepy": {"serve"},
    "openvino": {"load"},
    "openvino_genai": {"load"},
    "prometheus_client": {"serve"},
    "watchdog": {"view"},
}
TERMINAL_LAYER = "cli"  # alone prints and exits
TERMINAL_NAMES = {"print", "exit", "quit", "SystemExit", "sys.exit"}

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 40
# "ovfuse.x.y" or "ovfuse.x.y:Class.function": why it may be longer.
LONGER: Mapping[str, str] = {}


@dataclasses.dataclass(frozen=True)
class Module:
    name: str
    is_package: bool
    source: str
    tree: ast.Module

    @property
    def layer(self) -> str:
        return layer_of(self.name)


def layer_of(name: str) -> str:
    """`sealed` for `ovfuse.sealed.offsets`, nothing for `ovfuse` itself."""
    return (*name.split("."), "")[1]


def module_of(name: str, source: str, *, is_package: bool = False) -> Module:
    return Module(name, is_package, source, ast.parse(source))


def modules_below(package: Path) -> Iterator[Module]:
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        source = path.read_text(encoding="utf-8")
        yield module_of(name, source, is_package=is_package)


def dotted(node: ast.AST) -> str:
    """`a.b.c` for names and attributes, nothing for all else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (value := dotted(node.value)):
        return f"{value}.{node.attr}"
    return ""


def imports_of(module: Module, known: Iterable[str]) -> Iterator[str]:
    """Every module imported anywhere in it, also for types or in a function."""
    known = set(known)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in known else base
        elif isinstance(node, ast.Call) and node.args:
            function, first = dotted(node.func), node.args[0]
            by_name = function.endswith("import_module") or function == "__import__"
            if by_name and isinstance(first, ast.Constant):
                yield str(first.value)


def absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    parts = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*parts, node.module] if node.module else parts)


def may_import(here: str, there: str) -> bool:
    if there in {here, ""}:
        return True
    if there not in RANKS:
        return False
    return RANKS[there] < RANKS[here] or RANKS[there] == RANKS[here] == 0


def import_findings(module: Module, known: Iterable[str]) -> Iterator[str]:
    here = module.layer
    if module.name not in ENTRY_POINTS and here not in RANKS:
        yield f"{module.name}: in no layer"
        return
    for name in sorted(set(imports_of(module, known))):
        top = name.split(".")[0]
        fenced = top in FENCES and here not in FENCES[top]
        own = top == "ovfuse" and module.name not in ENTRY_POINTS
        if fenced or (own and not may_import(here, layer_of(name))):
            yield f"{module.name}: imports {name}"


def terminal_findings(module: Module) -> Iterator[str]:
    if module.layer == TERMINAL_LAYER:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name | ast.Attribute):
            if (name := dotted(node)) in TERMINAL_NAMES:
                yield f"{module.name}:{node.lineno}: {name}"
        elif isinstance(node, ast.ImportFrom) and any(
            f"{node.module}.{alias.name}" in TERMINAL_NAMES for alias in node.names
        ):
            yield f"{module.name}:{node.lineno}: sys.exit"


def functions_in(
    node: ast.AST, prefix: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        name = prefix
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{child.name}", child
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}{child.name}."
        yield from functions_in(child, name)


def shape_findings(module: Module, longer: Iterable[str]) -> Iterator[str]:
    longer = set(longer)
    lines = len(module.source.splitlines())
    if lines > MAX_MODULE_LINES and module.name not in longer:
        yield f"{module.name}: {lines} lines"
    for name, function in functions_in(module.tree):
        full = f"{module.name}:{name}"
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > MAX_FUNCTION_LINES and full not in longer:
            yield f"{full}: {lines} lines"
        if function.returns is None:
            yield f"{full}: no return annotation"


def cycle_findings(modules: Iterable[Module]) -> Iterator[str]:
    graph = {module.name: module for module in modules}
    edges = {
        name: sorted(set(imports_of(module, graph)) & graph.keys() - {name})
        for name, module in graph.items()
    }
    finished: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> Iterator[str]:
        if name in path:
            yield " -> ".join((*path[path.index(name) :], name))
        elif name not in finished:
            for target in edges[name]:
                yield from walk(target, (*path, name))
            finished.add(name)

    for name in edges:
        yield from walk(name, ())


def findings(modules: Iterable[Module], longer: Iterable[str] = ()) -> list[str]:
    modules = list(modules)
    known = {module.name for module in modules}
    found = [f"cycle: {cycle}" for cycle in cycle_findings(modules)]
    for module in modules:
        found += import_findings(module, known)
        found += terminal_findings(module)
        found += shape_findings(module, longer)
    return found


def test_sources_keep_the_rules() -> None:
    modules = list(modules_below(PACKAGE))

    assert {"ovfuse", "ovfuse.errors"} <= {module.name for module in modules}
    assert findings(modules, LONGER) == []


def test_every_longer_entry_is_still_needed() -> None:
    found = findings(modules_below(PACKAGE))

    for name in LONGER:
        assert any(line.startswith(f"{name}: ") for line in found), name


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("sealed.a", "from ovfuse.keys import b", "sealed.a: imports ovfuse.keys"),
        ("sealed.a", "import ovfuse.view.c", "sealed.a: imports ovfuse.view.c"),
        ("sealed.a", "from ..cli import d", "sealed.a: imports ovfuse.cli"),
        ("serve.a", "from ovfuse import load", "serve.a: imports ovfuse.load"),
        ("load.a", "import ovfuse.serve", "load.a: imports ovfuse.serve"),
        ("errors", "import ovfuse.sealed", "errors: imports ovfuse.sealed"),
        ("view.a", "import ovfuse.other", "view.a: imports ovfuse.other"),
        ("other", "", "other: in no layer"),
        ("__main__", "import openvino", "__main__: imports openvino"),
        ("view.a", "import cryptography.x", "view.a: imports cryptography.x"),
        ("cli.a", "from blake3 import blake3", "cli.a: imports blake3"),
        ("serve.a", "from pyrage import x25519", "serve.a: imports pyrage"),
        ("load.a", "import mfusepy", "load.a: imports mfusepy"),
        ("sealed.a", "import mfusepy", "sealed.a: imports mfusepy"),
        ("serve.a", "import openvino as ov", "serve.a: imports openvino"),
        ("serve.a", "import watchdog.events", "serve.a: imports watchdog.events"),
        (
            "serve.a",
            "def f() -> None:\n    import openvino",
            "serve.a: imports openvino",
        ),
        ("view.a", "if TYPE_CHECKING:\n    import pyrage", "view.a: imports pyrage"),
        ("view.a", "import_module('openvino')", "view.a: imports openvino"),
        ("keys.a", "\nprint(1)", "keys.a:2: print"),
        ("keys.a", "import sys\nsys.exit(1)", "keys.a:2: sys.exit"),
        ("keys.a", "from sys import exit", "keys.a:1: sys.exit"),
        ("keys.a", "raise SystemExit", "keys.a:1: SystemExit"),
        ("view.a", "def f(): ...", "view.a:f: no return annotation"),
        (
            "view.a",
            "class A:\n    async def f(self): ...",
            "view.a:A.f: no return annotation",
        ),
        (
            "view.a",
            "class A:\n    def f(self) -> None:" + "\n        pass" * 40,
            "view.a:A.f: 41 lines",
        ),
        ("view.a", "pass\n" * 401, "view.a: 401 lines"),
    ],
)
def test_bad_source_is_found(name: str, source: str, expected: str) -> None:
    bad = module_of(f"ovfuse.{name}", source)
    others = [
        module_of(f"ovfuse.{layer}", "", is_package=True)
        for layer in ("load", "keys", "cli")
    ]

    assert findings([bad, *others]) == [f"ovfuse.{expected}"]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("sealed.a", "from ovfuse.errors import DamagedError\nimport blake3"),
        ("errors", "from ovfuse.quote import quoted\nfrom ovfuse import __version__"),
        ("__main__", "from ovfuse.cli import main"),
        ("sealed.a", "from . import b\nfrom ovfuse.sealed.c import d"),
        ("serve.a", "import mfusepy\nfrom ovfuse.view import tree"),
        ("cli.a", "import sys\nimport ovfuse.load\nprint(1)\nsys.exit(1)"),
        ("view.a", "def f() -> None:" + "\n    pass" * 39),
    ],
)
def test_good_source_is_not_found(name: str, source: str) -> None:
    assert findings([module_of(f"ovfuse.{name}", source)]) == []


def test_cycle_is_found_also_when_it_is_only_for_types() -> None:
    modules = [
        module_of("ovfuse.view.a", "from ovfuse.view import b"),
        module_of("ovfuse.view.b", "from .c import C"),
        module_of("ovfuse.view.c", "if TYPE_CHECKING:\n    from .a import A"),
    ]

    assert findings(modules) == [
        "cycle: ovfuse.view.a -> ovfuse.view.b -> ovfuse.view.c -> ovfuse.view.a"
    ]


def test_longer_entry_lets_one_function_through() -> None:
    source = "def f() -> None:" + "\n    pass" * 40
    module = module_of("ovfuse.view.a", source)

    assert findings([module], {"ovfuse.view.a:f"}) == []
