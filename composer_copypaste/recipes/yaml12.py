"""Read and write YAML by the rules of YAML 1.2, refuse repeated keys, and tell the line of every key.

PyYAML follows YAML 1.1, which reads ``1e-4`` as text, ``no`` and ``on`` as booleans, ``010`` as 8 and ``12:30`` as 750.
Where a key is given twice, it silently takes the last value.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

Place = tuple[str, ...]
"""The keys that lead to a value, from the top."""

_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$")
_SCALARS = (  # YAML 1.2.2, section 10.3.2 (core schema), without octal and hexadecimal numbers; the first match counts
    ("null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", re.compile(r"^<<$"), ["<"]),
)


MAX_VALUES = 100_000
"""A text that expands to more values through aliases is refused."""


class _YamlLoader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - filled below, in place of YAML 1.1's


class _YamlDumper(yaml.SafeDumper):
    """Writes text that both versions of YAML read alike: what either would read as another type is quoted."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _construct_decimal(loader: _YamlLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


def _represent_text(dumper: _YamlDumper, text: str) -> yaml.ScalarNode:
    """Text, in double quotes where it has unprintable characters: PyYAML would read its own U+0085 as a space."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


for _name, _pattern, _first in _SCALARS:
    _YamlLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
_YamlLoader.add_constructor("tag:yaml.org,2002:int", _construct_decimal)
_YamlDumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_YamlDumper.add_representer(str, _represent_text)
_YamlDumper.add_representer(
    list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)
)


class YamlError(ValueError):
    """A text is not the YAML that is expected.

    Attributes:
        line: the line of the problem, counted from 1; None if it is unknown.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def parse_yaml(text: str) -> tuple[Any, Mapping[Place, int]]:
    """The value of a YAML text, and the line of each key of its nested mappings.

    Raises:
        YamlError: where the text is not YAML, or a key is given twice or is neither text nor a whole number. Whole
            numbers become text.
    """
    try:
        loader = _YamlLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        _expanded_size(node, {})
        lines = dict(_key_lines(node, ()))
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise YamlError(f"not valid YAML: {error.problem or error}", line) from error
    except yaml.YAMLError as error:
        raise YamlError(f"not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise YamlError("nested too deeply") from error
    except YamlError:
        raise
    except ValueError as error:  # a number of more digits than Python reads
        raise YamlError(f"not valid YAML here: {error}") from error


def dump_yaml(value: object) -> str:
    """The YAML text of mappings, lists, texts, numbers, booleans and None; keys keep their order."""
    return yaml.dump(value, Dumper=_YamlDumper, sort_keys=False, allow_unicode=True, width=120)


def _expanded_size(node: yaml.Node, counts: dict[int, int]) -> int:
    """The number of values that a node expands to; aliases of aliases could exceed any memory.

    Raises:
        YamlError: where there are too many values or a value contains itself, or a text has a NUL character.
    """
    line = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode) and "\0" in node.value:
        raise YamlError("holds a NUL character, which no path can have; leave it out", line)
    if id(node) not in counts:
        counts[id(node)] = MAX_VALUES  # until it is counted, so that a value inside itself is too many
        inner = [] if isinstance(node, yaml.ScalarNode) else node.value
        parts = [part for each in inner for part in (each if isinstance(each, tuple) else (each,))]
        counts[id(node)] = 1 + sum(_expanded_size(part, counts) for part in parts)
    if counts[id(node)] > MAX_VALUES:
        raise YamlError(f"stands for more than {MAX_VALUES} values or for itself; write it without aliases", line)
    return counts[id(node)]


def _key_lines(node: yaml.Node, place: Place) -> Iterator[tuple[Place, int]]:
    """The line of each key in a mapping and in those inside it."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        if key.tag == "tag:yaml.org,2002:int":  # as in ``label_weights: {3: 5}``
            key.tag = "tag:yaml.org,2002:str"
        if key.tag != "tag:yaml.org,2002:str":
            raise YamlError(f"expected text or a whole number as key, got {getattr(key, 'value', key.tag)!r}", line)
        if node.flow_style and key.style is None and ":" in key.value and value.start_mark == value.end_mark:
            name, _, given = key.value.partition(":")
            raise YamlError(f"no space after the colon in {key.value!r}; write {{{name}: {given}}}", line)
        if key.value in seen:
            raise YamlError(f"key {key.value!r} is given twice, first in line {seen[key.value]}; keep one", line)
        seen[key.value] = line
        yield (*place, key.value), line
        yield from _key_lines(value, (*place, key.value))
