"""Python with every name written out, so that what is looked for by name has one spelling only."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from typing import TypeVar

IMPORT_CALLS = {"__import__", "importlib.import_module"}

Node = TypeVar("Node", bound=ast.expr)


def plain(tree: ast.Module) -> ast.Module:
    """`tree` with each imported name as its full dotted one, at every place that uses it.

    After `import torch as t` or `from torch import load`, `t.load` and `load` become `torch.load`;
    `builtins.eval` becomes `eval`, and `getattr(torch, "load")` becomes `torch.load`. A name that the
    file binds by itself (`load = torch.load`) is not followed: what it is bound to is there to see.
    """
    names = {"__builtins__": "builtins"}
    for node in ast.walk(tree):
        names |= dict(_bound_by(node))
    plain_tree = _Plain(names).visit(tree)
    assert isinstance(plain_tree, ast.Module)
    return plain_tree


def imported(node: ast.AST) -> Iterator[str]:
    """The dotted names that a node of a plain tree imports, by a statement or by a call."""
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


def dotted(node: ast.AST | None) -> str | None:
    """ "a.b.c" of an expression that is no more than that."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=owner, attr=name):
            before = dotted(owner)
            return None if before is None else f"{before}.{name}"
    return None


def _bound_by(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Import):
        yield from ((alias.asname, alias.name) for alias in node.names if alias.asname)
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        for alias in node.names:
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"


class _Plain(ast.NodeTransformer):
    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        full = self._names.get(node.id)
        if full is None or not isinstance(node.ctx, ast.Load):
            return node
        return self._without_builtins(_at(node, ast.parse(full, mode="eval").body))

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        return self._without_builtins(node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        match node:
            case ast.Call(
                func=ast.Name(id="getattr"), args=[owner, ast.Constant(value=str(name)), *_]
            ):
                return self._without_builtins(_at(node, ast.Attribute(owner, name, ast.Load())))
        return node

    def _without_builtins(self, node: ast.expr) -> ast.expr:
        match node:
            case ast.Attribute(value=ast.Name(id="builtins"), attr=name) if hasattr(builtins, name):
                return _at(node, ast.Name(name, ast.Load()))
        return node


def _at(place: ast.expr, node: Node) -> Node:
    for inner in ast.walk(node):
        ast.copy_location(inner, place)
    return node
