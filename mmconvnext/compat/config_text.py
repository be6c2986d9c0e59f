"""Config texts in checkpoints: settings only, or removed.

Needed by: mmengine 0.10, every version of torch. ``Runner.resume`` hands ``meta['config']`` of a
checkpoint to ``Config.fromstring(…, '.py')``, and inferencers do the same with the text under
``message_hub`` or ``meta['cfg']``: that runs whatever Python is in it. ``weights_only=True``
does not help, since a text is only a text.
"""

from __future__ import annotations

import ast
import logging
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any

from mmengine.logging import print_log

# Where MMEngine looks for a config's text: the path of the mapping, and the key in it.
CONFIG_TEXTS = (
    (("meta",), "config"),
    (("meta",), "cfg"),
    (("message_hub", "runtime_info"), "cfg"),
)
# What a custom_imports has beside names of modules.
IMPORT_SETTINGS = ("imports", "allow_failed_imports", True, False, None)
LITERALS = (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp, ast.keyword)


def remove_code(checkpoint: Any, source: str) -> None:
    """Remove from a checkpoint every config text that is more than settings, with one warning each.

    Args:
        checkpoint: the content of a file; changed in place.
        source: what to call it in the warning.
    """
    for path, key in CONFIG_TEXTS:
        node = checkpoint
        for part in path:
            node = node.get(part) if isinstance(node, MutableMapping) else None
        if not isinstance(node, MutableMapping) or key not in node:
            continue
        if not is_only_settings(node[key]):
            del node[key]
            print_log(
                f"{source}: the config text in {'.'.join([*path, key])} is more than settings and "
                "was removed; nothing in it was run",
                logger="current",
                level=logging.WARNING,
            )


def is_only_settings(text: object) -> bool:
    """Whether a config text assigns literals and ``dict(...)`` calls to names, and does no more.

    ``_base_`` would read other files; ``{{…}}`` is replaced by text before MMEngine parses it;
    ``custom_imports`` may name only what is imported already.
    """
    if not isinstance(text, str) or "{{" in text:
        return False
    try:
        statements = ast.parse(text).body
        return all(map(_is_setting, statements))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_setting(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return False
    target, value = statement.targets[0], statement.value
    if not isinstance(target, ast.Name) or target.id == "_base_" or not _is_literal(value):
        return False
    if target.id != "custom_imports":
        return True
    names = {n.value for n in ast.walk(value) if isinstance(n, ast.Constant)}
    return all(name in sys.modules for name in names if name not in IMPORT_SETTINGS)


def _is_literal(node: ast.expr | ast.keyword) -> bool:
    if isinstance(node, ast.Call):
        return (
            isinstance(node.func, ast.Name)
            and node.func.id == "dict"
            and all(map(_is_literal, [*node.args, *node.keywords]))
        )
    return isinstance(node, LITERALS) and all(map(_is_literal, _children(node)))


def _children(node: ast.AST) -> Iterator[ast.AST]:
    ignored = (ast.expr_context, ast.unaryop)
    return (child for child in ast.iter_child_nodes(node) if not isinstance(child, ignored))
