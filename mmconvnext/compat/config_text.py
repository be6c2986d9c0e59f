"""Config texts in checkpoints: settings only, or removed.

Needed by: mmengine 0.10, every version of torch. ``Runner.resume`` hands ``meta['config']`` of a
checkpoint to ``Config.fromstring(…, '.py')``, and inferencers do the same with the text under
``message_hub`` or ``meta['cfg']``: that runs whatever Python is in it. ``weights_only=True``
does not help, since a text is only a text.
"""

import ast
import importlib.util
import logging
import sys
from collections.abc import Iterator
from typing import Any

import mmengine.registry
from mmengine.logging import print_log
from mmengine.registry import Registry

from mmconvnext.errors import UnreadableCheckpointError

# Where MMEngine looks for a config's text.
CONFIG_TEXTS = (("meta", "config"), ("meta", "cfg"), ("message_hub", "runtime_info", "cfg"))
LITERALS = (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp, ast.keyword)


def remove_code(checkpoint: Any, source: str) -> None:
    """Remove every config text that is more than settings, with a warning that names the source.

    Raises:
        UnreadableCheckpointError: the checkpoint is no dict.
    """
    if not isinstance(checkpoint, dict):
        raise UnreadableCheckpointError(
            f"{source} contains a {type(checkpoint).__name__}, and a checkpoint is a dict"
        )
    for *path, last in CONFIG_TEXTS:
        node = checkpoint
        for key in path:
            # a scalar of numpy with fields answers to names as a dict does
            if key in node and not isinstance(node[key], dict):
                _remove(node, key, f"{source}: {key} is no dict")
            node = node.get(key, {})
        if last in node and not is_only_settings(node[last]):
            where = ".".join([*path, last])
            _remove(node, last, f"{source}: the config text in {where} is more than settings")


def _remove(node: dict, key: str, reason: str) -> None:
    del node[key]
    message = f"{reason} and was removed; nothing in it was run"
    print_log(message, logger="current", level=logging.WARNING)


def is_only_settings(text: object) -> bool:
    """Whether a config text assigns literals and ``dict(...)`` calls to names, and does no more.

    ``_base_`` would read other files; ``{{…}}`` is replaced by text before MMEngine parses it;
    ``custom_imports`` may name only what is imported already, and a ``type`` with dots only what is
    registered already: MMEngine imports and calls any other.
    """
    if not isinstance(text, str) or "{{" in text:
        return False
    try:
        return all(map(_is_setting, ast.parse(text).body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_setting(statement: ast.stmt) -> bool:
    match statement:
        case ast.Assign(targets=[ast.Name(id="custom_imports")], value=value):
            return _is_literal(value) and _imports_nothing_new(value)
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name not in ("_base_", "dict", "__builtins__") and _is_literal(value)
    return False


def _is_literal(node: ast.AST) -> bool:
    if isinstance(node, LITERALS):
        ignored = (ast.expr_context, ast.unaryop)
        children = [n for n in ast.iter_child_nodes(node) if not isinstance(n, ignored)]
        return all(map(_is_safe_type, _types(node))) and all(map(_is_literal, children))
    match node:
        case ast.Call(func=ast.Name(id="dict"), args=args, keywords=keywords):
            # pairs of keys and values would hide a type
            only_dicts = all(isinstance(argument, ast.Dict) for argument in args)
            return only_dicts and all(map(_is_literal, [*args, *keywords]))
    return False


def _types(node: ast.AST) -> Iterator[str]:
    """What a dict or a keyword has as ``type``."""
    pairs = zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ()
    values = [v for k, v in pairs if isinstance(k, ast.Constant) and k.value == "type"]
    if isinstance(node, ast.keyword) and node.arg == "type":
        values.append(node.value)
    return (v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str))


def _is_safe_type(name: str) -> bool:
    """Whether a name with dots is a scope and a name in it, or the path of a registered class.

    One without dots must not be that of a module, unless it is imported already.
    """
    if "." not in name:
        return name in sys.modules or importlib.util.find_spec(name) is None
    place, _, last = name.rpartition(".")
    # without a module's own __getattr__, which may import others
    found = getattr(sys.modules.get(place), "__dict__", {}).get(last)
    roots = [r for r in vars(mmengine.registry).values() if isinstance(r, Registry)]
    for registry in (r for root in roots for r in (root, *root.children.values())):
        if registry.scope == place and last in registry.module_dict:
            return True
        if found is not None and any(known is found for known in registry.module_dict.values()):
            return True
    return False


def _imports_nothing_new(value: ast.expr) -> bool:
    keys = {id(k) for node in ast.walk(value) if isinstance(node, ast.Dict) for k in node.keys}
    constants = [n for n in ast.walk(value) if isinstance(n, ast.Constant) and id(n) not in keys]
    return all(n.value in sys.modules for n in constants if isinstance(n.value, str))


def read_settings(text: str) -> dict[str, Any]:
    """The settings of a config text that is only settings, without running it; {} of any other."""
    if not is_only_settings(text):
        return {}
    return {each.targets[0].id: _value(each.value) for each in ast.parse(text).body}


def _value(node: ast.AST) -> Any:
    if not isinstance(node, ast.Call):
        if isinstance(node, ast.List | ast.Tuple):
            return [_value(each) for each in node.elts]
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            return {ast.literal_eval(key): _value(each) for key, each in pairs}
        return ast.literal_eval(node)
    merged = {key: each for argument in node.args for key, each in _value(argument).items()}
    return merged | {each.arg: _value(each.value) for each in node.keywords}
