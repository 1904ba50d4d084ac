"""What usually goes wrong in a scoring script, said in the log when it is loaded. Nothing is refused for it."""

from __future__ import annotations

import ast
import inspect
import logging
import re
import tokenize
from collections.abc import Iterator
from typing import Any

from .log import LOGGER

_log = logging.getLogger(LOGGER + ".hint")

SOURCE_MAX = 1 << 20  # bytes of a script that is looked at

JSON_TEXT = (
    "run() returns text that is JSON already, as json.dumps makes it: callers get it quoted, as a JSON string. "
    "Return the object itself"
)
_NDARRAY = "run() returns a numpy array, which is not JSON: return result.tolist()"
_NDARRAY_INSIDE = "run() returns a numpy array inside its result, which is not JSON: put result.tolist() there"
_SWALLOWED = (
    "run() answers with status 200 when %s was caught: callers and metrics see a success. "
    "Raise it, or return AMLResponse(message, 500)"
)
_BROAD = {"Exception", "BaseException"}
_ARRAY_CALLS = {"predict", "predict_proba", "decision_function", "transform"}


def of_result(result: Any) -> str:
    """What to do about a result that is not JSON, or an empty text."""
    if hasattr(result, "tolist"):
        return "; return result.tolist()"
    if hasattr(result, "to_dict"):
        return '; return result.to_dict(orient="records")'
    if isinstance(result, (bytes, bytearray)):
        return "; return AMLResponse(result, 200) for bytes"
    return ""


_PARTS = (
    (("ndarray", "float16", "float32", "int8", "int16", "int32", "int64", "uint8", "bool", "bool_"), "part.tolist()"),
    (("DataFrame",), 'part.to_dict(orient="records")'),
    (("Series", "Index"), "part.tolist()"),
)


def of_part(error: Exception) -> str:
    """What to do about a part of a result that is not JSON, which json names by its type; or an empty text."""
    found = re.match(r"Object of type (\w+) is not JSON serializable", str(error))
    for names, way in _PARTS if found else ():
        if found and found.group(1) in names:
            return f"; put {way} into it"
    return ""


_unseen: list[Any] = []  # functions that tell() has not looked at yet


def look(run: Any) -> None:
    """Have the next tell() look at run()."""
    _unseen.append(run)


def tell() -> None:
    """Log a hint for each place that looks like one of the usual mistakes.

    Reading a script again for it takes as long as loading it did, so it is done when nobody waits.
    """
    while _unseen:
        for line, text in find(_unseen.pop()):
            _log.warning("line %d: %s", line, text)


def find(run: Any) -> list[tuple[int, str]]:
    """The hints for a function, with the line of each. None when its source cannot be read."""
    try:
        code = inspect.unwrap(run).__code__
        # inspect.getsource would look at every module there is, and a fork would have to copy them for that.
        with tokenize.open(code.co_filename) as file:
            source = file.read(SOURCE_MAX + 1)
        tree = ast.parse(source) if len(source) <= SOURCE_MAX else ast.Module([], [])
    except (AttributeError, OSError, TypeError, SyntaxError, ValueError):
        return []
    functions = (
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and _first(node) == code.co_firstlineno
    )
    return sorted({(node.lineno, text) for function in functions for node, text in _hints(ast.Module([function], []))})


def _first(function: ast.FunctionDef) -> int:
    """The line at which the function begins for Python: that of its first decorator."""
    return min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])


def _hints(tree: ast.AST) -> Iterator[tuple[ast.stmt | ast.ExceptHandler, str]]:
    arrays: set[str] = set()
    for node in _own(tree):
        if isinstance(node, ast.Assign) and _is_array(node.value):
            arrays |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Assign):
            arrays -= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Return) and node.value is not None:
            if _calls(node.value, "dumps"):
                yield node, JSON_TEXT
            elif _gives_array(node.value, arrays):
                yield node, _NDARRAY
            elif any(_gives_array(part, arrays) for part in _parts(node.value)):
                yield node, _NDARRAY_INSIDE
        elif isinstance(node, ast.ExceptHandler) and _swallows(node):
            yield node, _SWALLOWED % (ast.unparse(node.type) if node.type is not None else "an exception")


def _own(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes in the order of the source, without those of functions inside the function."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(tree, (ast.FunctionDef, ast.Lambda)) and isinstance(child, (ast.FunctionDef, ast.Lambda)):
            continue
        yield child
        yield from _own(child)


def _calls(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and (
        isinstance(node.func, ast.Attribute) and node.func.attr == name
        or isinstance(node.func, ast.Name) and node.func.id == name
    )  # fmt: skip


def _gives_array(node: ast.AST, arrays: set[str]) -> bool:
    return _is_array(node) or isinstance(node, ast.Name) and node.id in arrays


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """What stands in a dict, list or tuple that is written out, at any depth."""
    parts = node.values if isinstance(node, ast.Dict) else node.elts if isinstance(node, (ast.List, ast.Tuple)) else ()
    for part in parts:
        yield part
        yield from _parts(part)


def _is_array(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _ARRAY_CALLS


def _swallows(handler: ast.ExceptHandler) -> bool:
    """Whether a handler of everything returns a plain value: neither raises nor answers with a status of its own."""
    kind = handler.type
    if kind is not None and not (isinstance(kind, ast.Name) and kind.id in _BROAD):
        return False
    inner = [node for part in handler.body for node in (part, *_own(part))]
    if any(isinstance(node, ast.Raise) for node in inner):
        return False
    returns = [node.value for node in inner if isinstance(node, ast.Return) and node.value is not None]
    return any(not _calls(value, "AMLResponse") and not _calls(value, "Response") for value in returns)
