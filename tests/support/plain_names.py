"""Python with every name written out, so that what is looked for by name has one spelling only."""

from __future__ import annotations

import ast
from collections.abc import Iterator

IMPORT_CALLS = {"__import__", "importlib.import_module"}


def plain(tree: ast.Module) -> ast.Module:
    """The same tree, with its names written out."""
    write_names_out(list(ast.walk(tree)))
    return tree


def write_names_out(nodes: list[ast.AST]) -> None:
    """Of all nodes of a file: each imported name becomes its full dotted one, wherever it is used.

    After `import torch as t` or `from torch import load`, the names `t` and `load` are `torch` and `torch.load`. A name
    that the file binds by itself (`load = torch.load`) is not followed: what it is bound to is there to see.
    """
    names = {"__builtins__": "builtins"}
    for node in nodes:
        names.update(_bound_by(node))
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            node.id = names.get(node.id, node.id)


def _bound_by(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Import):
        yield from ((alias.asname, alias.name) for alias in node.names if alias.asname)
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        for alias in node.names:
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def dotted(node: ast.AST | None) -> str | None:
    """ "a.b.c" of an expression that is no more than that; "eval" of what is `builtins.eval`."""
    match node:
        case ast.Name(id=name):
            return name.removeprefix("builtins.")
        case ast.Attribute(value=owner, attr=name):
            pass
        case ast.Call(func=ast.Name(id="getattr"), args=[owner, ast.Constant(value=str(name)), *_]):
            pass
        case _:
            return None
    before = dotted(owner)
    return None if before is None else f"{before}.{name}".removeprefix("builtins.")


def imported(node: ast.AST) -> Iterator[str]:
    """The dotted names that a node imports, by a statement or by a call."""
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names):
            full = (f"{module or ''}.{alias.name}" for alias in names)
            yield from (name.removeprefix("builtins.") for name in full)
        case ast.Call(args=[ast.Constant(value=str(name)), *_]) if is_import_call(node):
            yield name


def is_import_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and dotted(node.func) in IMPORT_CALLS
