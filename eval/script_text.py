"""Reads the words that a judging script sends out of its syntax tree; nothing of it is executed.

Understands how such scripts put text together: constants, f-strings, `+`, `%`, `.format`,
`.replace`, `.join`, `.strip`, `textwrap.dedent`, names and attributes given earlier, parameters,
and functions that return text. What is only known when the script runs is a hole.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence

from .text_holes import Hole, Text, fill, name_holes, plain, replace, strip, with_marks
from .wording import Wording, WordingError

_DEEPEST = 20


_Function = ast.FunctionDef | ast.AsyncFunctionDef
# An expression, and the function in which its names have their meaning.
_Given = tuple[ast.expr, "_Function | None"]


def read_wording(script: str, holes: Sequence[str]) -> Wording:
    """Return what `script` says to its judge, its holes named `holes` in order of appearance.

    Raises:
        WordingError: it is no Python, or holds no system and user message of that form.
    """
    try:
        tree = ast.parse(script)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise WordingError(f"the authors' script is not readable Python ({error})") from error
    reader = _Reader(tree)
    # A name stands for a hole first; only where that gives too few or too many, for its text.
    for is_eager in (False, True):
        system = reader.message("system", (), is_eager)
        user = reader.message("user", holes, is_eager)
        if system is not None and user is not None:
            return Wording(system=system, user=user)
    raise WordingError(
        "the authors' script has no system and user message with places for "
        f"{' and '.join(holes)}; is it another version?"
    )


class _Reader:
    """One script: its functions, and what its names stand for."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._functions = {
            node.name: node for node in ast.walk(tree) if isinstance(node, _Function)
        }
        self._is_eager = False

    def message(self, role: str, holes: Sequence[str], is_eager: bool) -> str | None:
        """Return the first message of a role that has exactly these holes, as a template."""
        self._is_eager = is_eager
        for fields, scope in self._dictionaries():
            named = fields.get("role")
            if not (isinstance(named, ast.Constant) and named.value == role):
                continue
            if "content" not in fields:
                continue
            for node, place in self._texts(fields["content"], scope):
                text = self._text(node, place, 0, is_outer=True)
                template = name_holes(text, holes)
                if template is not None:
                    return template
        return None

    def _dictionaries(self) -> Iterator[tuple[dict[str, ast.expr], _Function | None]]:
        for node, scope in _with_scope(self._tree, None):
            if isinstance(node, ast.Dict):
                yield _fields(node), scope
            elif isinstance(node, ast.Call) and _called(node) == "dict":
                yield {one.arg: one.value for one in node.keywords if one.arg}, scope

    def _texts(self, content: ast.expr, scope: _Function | None) -> Iterator[_Given]:
        """Yield the texts of a message: the content itself, or its text parts."""
        parts: list[ast.expr] = []
        if isinstance(content, ast.Name) and (given := self._given(content, scope)):
            parts = _appended(scope or self._tree, content.id)
            content, scope = given
        if not isinstance(content, ast.List | ast.Tuple):
            yield content, scope
            return
        for part in [*content.elts, *parts]:
            if isinstance(part, ast.Dict) and "text" in (fields := _fields(part)):
                yield fields["text"], scope

    def _text(
        self, node: ast.expr, scope: _Function | None, depth: int, *, is_outer: bool = False
    ) -> Text:
        """Return the text that an expression stands for; a hole where it is not known."""
        hole: Text = [Hole(ast.unparse(node))]
        if depth > _DEEPEST:
            return hole
        if isinstance(node, ast.Constant):
            return [str(node.value)]
        if isinstance(node, ast.JoinedStr):
            return [part for value in node.values for part in self._text(value, scope, depth + 1)]
        if isinstance(node, ast.FormattedValue):
            return self._text(node.value, scope, depth + 1)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return [
                *self._text(node.left, scope, depth + 1),
                *self._text(node.right, scope, depth + 1),
            ]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            return self._percent(node, scope, depth)
        if isinstance(node, ast.Name):
            return self._named(node, scope, depth, is_outer) or hole
        if isinstance(node, ast.Call):
            return self._call(node, scope, depth, is_outer) or hole
        if isinstance(node, ast.Attribute) and (is_outer or self._is_eager):
            given = self._attribute(node.attr)
            return hole if given is None else self._text(given, None, depth + 1, is_outer=is_outer)
        return hole

    def _named(
        self, node: ast.Name, scope: _Function | None, depth: int, is_outer: bool
    ) -> Text | None:
        given = self._given(node, scope)
        if given is None:
            return None
        value, place = given
        if place is not None and not is_outer and not self._is_eager:
            return None
        return self._text(value, place, depth + 1, is_outer=is_outer)

    def _given(self, node: ast.Name, scope: _Function | None) -> _Given | None:
        """Return the last value that a name was given above, in its function or in the module."""
        if scope is not None:
            if values := _values(scope, node.id, node.lineno):
                return values[-1], scope
            if node.id in _parameters(scope):
                return self._argument(scope, node.id) if self._is_eager else None
        values = _values(self._tree, node.id, None)
        return (values[-1], None) if values else None

    def _argument(self, function: _Function, name: str) -> _Given | None:
        """Return what a parameter is: its default, or what the first call gives for it."""
        names = _parameters(function)
        defaults = dict(zip(reversed(names), reversed(function.args.defaults), strict=False))
        if name in defaults:
            return defaults[name], None
        for node, scope in _with_scope(self._tree, None):
            if isinstance(node, ast.Call) and _called(node) == function.name:
                given = dict(zip(names, node.args, strict=False))
                given |= {one.arg: one.value for one in node.keywords if one.arg}
                return (given[name], scope) if name in given else None
        return None

    def _attribute(self, name: str) -> ast.expr | None:
        """Return what `self.name` or a class's `name` is set to anywhere."""
        for node in ast.walk(self._tree):
            if isinstance(node, ast.ClassDef) and (values := _values(node, name, None)):
                return values[-1]
            if isinstance(node, ast.Assign) and any(
                isinstance(one, ast.Attribute) and one.attr == name for one in node.targets
            ):
                return node.value
        return None

    def _call(
        self, node: ast.Call, scope: _Function | None, depth: int, is_outer: bool
    ) -> Text | None:
        name = _called(node)
        if name in ("dedent", "cleandoc") and len(node.args) == 1:
            text = self._text(node.args[0], scope, depth + 1, is_outer=is_outer)
            return with_marks(text, textwrap.dedent if name == "dedent" else inspect.cleandoc)
        function = self._functions.get(name)
        # `self.prompt(...)` is a function of the script, `text.strip()` is not.
        if isinstance(node.func, ast.Attribute) and function is None:
            text_before = self._text(node.func.value, scope, depth + 1, is_outer=is_outer)
            return self._method(node, node.func.attr, text_before, scope, depth)
        if function is None or not (is_outer or self._is_eager):
            return None
        returned = [one.value for one in ast.walk(function) if isinstance(one, ast.Return)]
        if len(returned) != 1 or returned[0] is None:
            return None
        return self._text(returned[0], function, depth + 1, is_outer=True)

    def _method(
        self, node: ast.Call, method: str, text: Text, scope: _Function | None, depth: int
    ) -> Text | None:
        if all(isinstance(part, Hole) for part in text) and text:
            return None
        arguments = [self._text(one, scope, depth + 1) for one in node.args]
        if method in ("strip", "lstrip", "rstrip"):
            return strip(text, method, plain(arguments[0]) if arguments else None)
        if method == "replace" and len(arguments) == 2:
            return replace(text, plain(arguments[0]), arguments[1])
        if method == "format":
            named = {
                one.arg: self._text(one.value, scope, depth + 1) for one in node.keywords if one.arg
            }
            return fill(plain(text), arguments, named)
        if method == "join" and isinstance(node.args[0], ast.List | ast.Tuple):
            parts = [self._text(one, scope, depth + 1) for one in node.args[0].elts]
            return [
                one for place, part in enumerate(parts) for one in (*(text * (place > 0)), *part)
            ]
        return None

    def _percent(self, node: ast.BinOp, scope: _Function | None, depth: int) -> Text:
        pattern = plain(self._text(node.left, scope, depth + 1, is_outer=True))
        values = node.right.elts if isinstance(node.right, ast.Tuple) else [node.right]
        pieces = re.split(r"%(?:\(\w+\))?s", pattern or "")
        if pattern is None or len(pieces) != len(values) + 1:
            return [Hole(ast.unparse(node))]
        text: Text = [pieces[0].replace("%%", "%")]
        for value, piece in zip(values, pieces[1:], strict=True):
            text += [*self._text(value, scope, depth + 1), piece.replace("%%", "%")]
        return text


def _with_scope(
    node: ast.AST, scope: _Function | None
) -> Iterator[tuple[ast.AST, _Function | None]]:
    for child in ast.iter_child_nodes(node):
        yield child, scope
        yield from _with_scope(child, child if isinstance(child, _Function) else scope)


def _parameters(function: _Function) -> list[str]:
    return [one.arg for one in (*function.args.posonlyargs, *function.args.args)]


def _values(
    place: ast.Module | ast.ClassDef | _Function, name: str, above: int | None
) -> list[ast.expr]:
    """Return what `name` is set to in a module's or function's own statements, in order."""
    found: list[ast.expr] = []
    for node, scope in _with_scope(place, None):
        if scope is not None or not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if not any(isinstance(one, ast.Name) and one.id == name for one in targets):
            continue
        if node.value is None or (above is not None and (node.end_lineno or 0) >= above):
            continue
        if isinstance(node, ast.AugAssign):
            if found:
                found.append(ast.BinOp(found[-1], node.op, node.value))
            continue
        found.append(node.value)
    return found


def _appended(place: ast.Module | _Function, name: str) -> list[ast.expr]:
    """Return what is appended to the list `name`, in order."""
    return [
        node.args[0]
        for node in ast.walk(place)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == f"{name}.append"
        and len(node.args) == 1
    ]


def _fields(node: ast.Dict) -> dict[str, ast.expr]:
    pairs = zip(node.keys, node.values, strict=True)
    return {str(key.value): value for key, value in pairs if isinstance(key, ast.Constant)}


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""
