"""Which code a notebook's results depend on, as one hash: its cells, and the modules of `cxr` that it reaches.

Imports are followed in the source, into sub-packages, without running anything. What is hashed is the syntax tree:
comments, docstrings and the texts of errors do not count, so that better words make no result out of date.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from cxr.core.errors import InputError
from cxr.core.execution import cells_of
from cxr.core.files import parse

PACKAGE = Path(__file__).resolve().parents[1]
# What results look like: labels, headings, figures. Only a report, whose product they are, depends on them.
SHOWING = frozenset({"core.display", "core.methods", "core.tables", "report.figures"})
# Modules that draw, log, check or run things, and compute nothing: a night's training is not out of date because
# a colour changed, or what a parameter is said to be (its value is in the fingerprint). A function that
# `core.methods` names is in a module that counts.
NOT_IN_CODE = SHOWING | {"cli", "core.params", "core.progress", "core.yaml_values", "study", "tracking"}
# Modules that read files of a folder beside them: with the module come the files.
_DATA_OF = {"models.weights": "pretrained"}


def code_version(notebook: Path, *, package: Path = PACKAGE, without: Collection[str] = NOT_IN_CODE) -> str:
    """SHA-256, in hexadecimal, over a notebook's code cells and the modules of a package that it reaches.

    A module is reached when the notebook imports it, or a module that is reached does: `import`, `from` and
    relative imports count, also within functions, but not under `if TYPE_CHECKING`. Of a package that is only
    passed through on the way to a module, `__init__` counts with what it imports at once; where a name is taken
    from the package, with all that it imports; where the package itself is imported, all of its modules count.
    Outputs, text cells and the cell that begins with `# Parameters`, whose values are settings, do not count.

    Args:
        notebook: an `.ipynb` file.
        package: the folder of the package; its name is the package's.
        without: modules and sub-packages, as dotted names within the package, that do not count.

    Raises:
        InputError: there is no such notebook, or a cell is not Python.
    """
    parts = []
    targets: set[str] = set()
    for cell in code_cells(notebook):
        try:
            digest, imports, _ = _analysed(_without_magics(cell))
        except SyntaxError as error:
            raise InputError(f"{notebook}: a code cell is not Python: {error}") from None
        parts += [digest, *_magics(cell)]
        targets |= {target for level, target in imports if not level}
    own_modules = modules(package)
    reached = _reached(targets, own_modules, package.name, without)
    parts += [f"{name} {_analysed(_text(own_modules[name]))[0]}" for name in sorted(reached)]
    for name, folder in _DATA_OF.items():
        if name in reached:
            files = sorted((own_modules[name].parent / folder).glob("*"))
            parts += [f"{file.name} {contents(file)}" for file in files]
    return sha256("\n".join(parts))


def code_cells(notebook: Path) -> list[str]:
    """The sources of a notebook's code cells, without the one of parameters. Raises InputError."""
    cells = (cell for cell in cells_of(notebook) if cell["cell_type"] == "code")
    sources = ("".join(cell["source"]).strip() for cell in cells)
    return [source for source in sources if source and not source.startswith("# Parameters")]


def cell_version(source: str) -> str:
    """A code cell as it counts: equal for cells that differ in comments, docstrings and layout only.

    A cell that is not Python counts as it is.
    """
    try:
        return "\n".join([_analysed(_without_magics(source))[0], *_magics(source)])
    except SyntaxError:
        return source


def package_version(package: Path = PACKAGE) -> str:
    """SHA-256 over all files of the package: whether two machines have the same."""
    found = {
        path.relative_to(package).as_posix(): contents(path, text=path.suffix == ".py")
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return sha256("\n".join(f"{name} {found[name]}" for name in sorted(found)))


def modules(package: Path) -> dict[str, Path]:
    """Files of a package's modules by dotted name within it.

    "" is the package's own `__init__`, "a" the module `a` or the `__init__` of the sub-package `a`.
    """
    found = {}
    for path in package.rglob("*.py"):
        *folders, name = path.relative_to(package).with_suffix("").parts
        found[".".join(folders if name == "__init__" else [*folders, name])] = path
    return found


def imports_of(path: Path, package: Path = PACKAGE) -> set[str]:
    """The modules of the package that a module of it imports anywhere, by dotted name within the package."""
    own_modules = modules(package)
    name = next(name for name, other in own_modules.items() if other == path)
    targets = _absolute(_analysed(_text(path))[1], name, own_modules, package.name)
    return {found for target in targets if (found := _resolve(target, own_modules, package.name)) is not None}


def contents(path: Path, *, text: bool = False) -> str:
    """SHA-256 of a file's contents, in hexadecimal; of text with the line ends that git has."""
    content = path.read_bytes()
    # git may check out text with other line ends on Windows
    return hashlib.sha256(content.replace(b"\r\n", b"\n") if text else content).hexdigest()


def sha256(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


# ------------------------------------------------------------------------------------------- following imports


def _reached(targets: set[str], own_modules: dict[str, Path], package: str, without: Collection[str]) -> set[str]:
    """Names of the modules that imports of these targets reach, directly or through one another."""
    waiting: set[tuple[str, bool]] = set()
    for target in targets:
        waiting |= _entered(target, own_modules, package)
    seen: set[tuple[str, bool]] = set()
    while waiting:
        name, whole = item = waiting.pop()
        seen.add(item)
        if _is_left_out(name, without):
            continue
        _, everywhere, at_once = _analysed(_text(own_modules[name]))
        imports = everywhere if whole else at_once
        for target in _absolute(imports, name, own_modules, package):
            waiting |= _entered(target, own_modules, package) - seen
    return {name for name, _ in seen if not _is_left_out(name, without)}


def _entered(target: str, own_modules: dict[str, Path], package: str) -> set[tuple[str, bool]]:
    """The modules that the import of a target runs, and whether all of each counts or what it does at once."""
    name = _resolve(target, own_modules, package)
    if name is None:
        return set()
    parts = name.split(".") if name else []
    above = {".".join(parts[:depth]) for depth in range(len(parts))} & own_modules.keys()
    whole = {name}
    if target == ".".join([package, *parts]) and own_modules[name].name == "__init__.py":
        # a package by itself: which of its modules are used is not to be seen here
        whole |= {other for other in own_modules if not parts or other.startswith(f"{name}.")}
    return {(other, False) for other in above} | {(other, True) for other in whole}


def _resolve(target: str, own_modules: dict[str, Path], package: str) -> str | None:
    """The module that an import's target is or lies in; None for those of other packages.

    "cxr.data.splits.assign" lies in "data.splits".
    """
    parts = target.split(".")
    if parts[0] != package:
        return None
    return next(name for depth in range(len(parts), 0, -1) if (name := ".".join(parts[1:depth])) in own_modules)


def _absolute(
    imports: Collection[tuple[int, str]], name: str, own_modules: dict[str, Path], package: str
) -> Iterator[str]:
    """Targets of the imports in the module `name`, with relative ones written out."""
    within = [package, *(name.split(".") if name else [])]
    if own_modules[name].name != "__init__.py":
        within.pop()
    for level, target in imports:
        yield ".".join([*within[: len(within) - level + 1], *filter(None, [target])]) if level else target


def _is_left_out(name: str, without: Collection[str]) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in without)


# ----------------------------------------------------------------------------------------------- reading source


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@functools.cache
def _analysed(source: str) -> tuple[str, frozenset[tuple[int, str]], frozenset[tuple[int, str]]]:
    """Of Python source: its hash, and the (level, target) of all its imports and of those that it runs at once.

    Kept by the source itself: a study asks for every module once a step.
    """
    tree = parse(source)
    return sha256(_canonical(tree)), frozenset(_imports(tree, everywhere=True)), frozenset(_imports(tree))


def _canonical(node: object) -> str:
    """A syntax tree as text, the same in all versions of Python that have the same fields for it.

    Without docstrings (any text that stands alone) and without what is given to an exception that is raised.
    """
    if isinstance(node, list):
        return f"[{','.join(_canonical(item) for item in node if not _is_text(item))}]"
    if not isinstance(node, ast.AST):
        return f"{type(node).__name__} {node!r}"
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        return f"Raise({_canonical(node.exc.func)},{_canonical(node.cause)})"
    fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
    return f"{type(node).__name__}({','.join(f'{name}={_canonical(value)}' for name, value in fields)})"


def _is_text(node: object) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _imports(node: ast.AST, *, everywhere: bool = False) -> Iterator[tuple[int, str]]:
    """(level, target) of the imports below a node; without `everywhere` not those within functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((0, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = f"{child.module}." if child.module else ""
            yield from ((child.level, f"{base}{alias.name}") for alias in child.names)
        elif isinstance(child, ast.If) and _is_type_checking(child.test):
            for other in child.orelse:
                yield from _imports(ast.Module([other], []), everywhere=everywhere)
        elif everywhere or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imports(child, everywhere=everywhere)


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name | ast.Attribute) and ast.unparse(test).endswith("TYPE_CHECKING")


_MAGIC = re.compile(r"\s*[%!?]")


def _without_magics(cell: str) -> str:
    """A cell with IPython's own lines (%matplotlib, !ls) blanked: they import nothing of ours."""
    return "\n".join("" if _MAGIC.match(line) else line for line in cell.splitlines())


def _magics(cell: str) -> list[str]:
    return [line.strip() for line in cell.splitlines() if _MAGIC.match(line)]
