"""YAML as people write it, read so that no file can do harm or go wrong silently."""

import re
from typing import Any, Final

import yaml

from edgebus.addresses import hide_credentials

_SHOWN: Final = 80
_MAX_DEPTH: Final = 50
_MAX_VALUES: Final = 100_000


class YamlTextError(ValueError):
    """A text that is no YAML, or YAML that nobody should have to read.

    Attributes:
        reason: What is wrong, with line and column; never a piece of the text, which may hold a
            password.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_yaml(text: str) -> Any:
    """Read one YAML document.

    Unlike plain YAML, a key that is there twice is an error, and so are aliases of aliases that
    would grow into more than 100,000 values, and nesting deeper than 50.

    Raises:
        YamlTextError: It cannot be read.
    """
    try:
        loader = _StrictLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _Size().of(node)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise YamlTextError(_words(error)) from None
    except yaml.YAMLError as error:
        raise YamlTextError(" ".join(str(error).split())) from None
    except RecursionError:
        raise YamlTextError(f"nests deeper than {_MAX_DEPTH} levels") from None
    except (ValueError, AttributeError, KeyError, TypeError, OverflowError) as error:
        # PyYAML's constructors raise what comes: for the 13th month, for `!!int x` and so on.
        reason = f"a value does not fit its type: {type(error).__name__}: {error}"
        raise YamlTextError(reason) from None


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a doubled key, where plain YAML takes the last silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                msg = "a key is a list or a mapping"
                raise yaml.constructor.ConstructorError(None, None, msg, key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                # A file that was garbled may have anything for a key.
                msg = f"key {hide_credentials(repr(key))[:_SHOWN]} is there twice"
                raise yaml.constructor.ConstructorError(None, None, msg, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Size:
    """Number of values that a node stands for once its aliases are followed, without following."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}
        self._above: set[int] = set()

    def of(self, node: yaml.Node) -> int:
        """Values of a node and all below it.

        Raises:
            YamlTextError: They are too many, too deep, or hold themselves.
        """
        key = id(node)
        if key in self._above:
            raise YamlTextError(f"holds itself by an alias{_place(node.start_mark)}")
        if key not in self._known:
            self._above.add(key)
            if len(self._above) > _MAX_DEPTH:
                raise YamlTextError(f"nests deeper than {_MAX_DEPTH} levels")
            self._known[key] = 1 + sum(self.of(child) for child in _children(node))
            self._above.remove(key)
        if self._known[key] > _MAX_VALUES:
            reason = (
                f"stands for more than {_MAX_VALUES} values by aliases{_place(node.start_mark)}"
            )
            raise YamlTextError(reason)
        return self._known[key]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _words(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    return re.sub(r"\s+", " ", ", ".join(parts)) + _place(error.problem_mark or error.context_mark)


def _place(mark: yaml.Mark | None) -> str:
    return "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
