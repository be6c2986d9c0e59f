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
# `_base_` would read other files, and the others change what `dict(...)` calls.
RESERVED = ("_base_", "dict", "__builtins__")


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
        if last in node and read_settings(node[last]) is None:
            where = ".".join([*path, last])
            _remove(node, last, f"{source}: the config text in {where} is more than settings")


def _remove(node: dict, key: str, reason: str) -> None:
    del node[key]
    message = f"{reason} and was removed; nothing in it was run"
    print_log(message, logger="current", level=logging.WARNING)


def read_settings(text: object) -> dict[str, Any] | None:
    """The values of a config text, without running it; None where it is more than settings.

    Settings assign literals and ``dict(...)`` calls to names. ``{{…}}`` is replaced by text before
    MMEngine parses it; ``custom_imports`` may name only what is imported already, and a ``type``
    with dots only what is registered already: MMEngine imports and calls any other.
    """
    if not isinstance(text, str) or "{{" in text:
        return None
    settings = {}
    try:
        for statement in ast.parse(text).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=node) if name not in RESERVED:
                    value = ast.literal_eval(_DictCalls().visit(node))
                case _:
                    return None
            if not all(map(is_safe_type, _types(value))):
                return None
            if name == "custom_imports" and not sys.modules.keys() >= {*_strings(value)}:
                return None
            settings[name] = value
    # of what is no Python, no literal, nested too deep, or a key that cannot be hashed
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return settings


class _DictCalls(ast.NodeTransformer):
    """Rewrites ``dict({...}, key=...)`` as the literal that it stands for."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        match node:
            case ast.Call(func=ast.Name(id="dict"), args=[ast.Dict()] | [], keywords=keywords):
                literal = node.args[0] if node.args else ast.Dict(keys=[], values=[])
                # of `**{...}`, which has no name, it makes what is no literal
                names = [each.arg and ast.Constant(each.arg) for each in keywords]
                values = [each.value for each in keywords]
                return ast.Dict(keys=[*literal.keys, *names], values=[*literal.values, *values])
        return node


def _nested(value: Any) -> Iterator[Any]:
    """A value and all that is in it, but for the keys of its dicts."""
    yield value
    inner = value.values() if isinstance(value, dict) else value
    for each in inner if isinstance(value, dict | list | tuple | set) else ():
        yield from _nested(each)


def _strings(value: Any) -> Iterator[str]:
    return (each for each in _nested(value) if isinstance(each, str))


def _types(value: Any) -> Iterator[str]:
    """What any dict in a value has as ``type``, where that is a name."""
    kinds = (each.get("type") for each in _nested(value) if isinstance(each, dict))
    return (kind for kind in kinds if isinstance(kind, str))


def is_safe_type(name: str) -> bool:
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
