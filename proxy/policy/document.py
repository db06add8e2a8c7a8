"""YAML read strictly, with the place of every key and value.

Refused: duplicate keys, merge keys, YAML 1.1's extra booleans and base-60 numbers, more aliases than a person writes.
`${NAME}`, `${NAME:-default}` and `${file:PATH}` are replaced in scalars; a replaced scalar is read as YAML would read
its text. Where NAME is not set but NAME_FILE is, the text of that file stands for it, as container images have it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import yaml

from proxy.policy.findings import Finding, PolicyError

Path_ = tuple[str | int, ...]
MAX_ALIASES = 64
MAX_NODES = 200_000
MAX_DEPTH = 40

_REFERENCE = re.compile(
    r"\$\{file:(?P<file>[^}]+)\}|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:(?P<operator>:[-~])(?P<default>[^}]*))?\}|\$\{(?P<bad>[^}]*)\}?"
)
MAX_SECRET = 64 * 1024
_YAML11_BOOLEAN = re.compile(r"(?i:y|n|yes|no|on|off)")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9]+(?::[0-5]?[0-9])+(?:\.[0-9]*)?")
_OCTAL = re.compile(r"[-+]?0[0-9]+")
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?[0-9]+\.[0-9]+")


@dataclass(slots=True)
class Document:
    """`data` is plain Python; `places` maps a path of keys to the line and column (from 1) of key and of value."""

    file: str
    data: object = None
    findings: list[Finding] = field(default_factory=list)
    """What is wrong with the YAML itself, though it could be read."""
    keys: dict[Path_, tuple[int, int]] = field(default_factory=dict)
    values: dict[Path_, tuple[int, int]] = field(default_factory=dict)

    def place(self, path: Path_, *, key: bool = False) -> tuple[int, int]:
        """The nearest known place of `path`."""
        for table in (self.keys, self.values) if key else (self.values, self.keys):
            if path in table:
                return table[path]
        return self.place(path[:-1], key=key) if path else (1, 1)


def read(path: Path, environment: Mapping[str, str], data: bytes | None = None) -> Document:
    """Of the file, or of `data` where that is what it said. Raises PolicyError with every finding."""
    try:
        text = (path.read_bytes() if data is None else data).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise PolicyError([Finding(str(path), 1, 1, "", f"can't be read: {reason}")]) from error
    return parse(text, str(path), environment)


def parse(text: str, file: str, environment: Mapping[str, str]) -> Document:
    try:
        depth = aliases = 0
        tagged: list[Finding] = []
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            aliases += isinstance(event, yaml.AliasEvent)
            if (tag := getattr(event, "tag", None)) is not None and event.start_mark is not None:
                line, column = event.start_mark.line + 1, event.start_mark.column + 1
                tagged.append(Finding(file, line, column, "", f'the tag "{tag}" is not read. Leave it out'))
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                mark = event.start_mark
                line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
                raise PolicyError([Finding(file, line, column, "", _TOO_DEEP)])
        if aliases > MAX_ALIASES:
            raise PolicyError([Finding(file, 1, 1, "", f"more than {MAX_ALIASES} aliases. Write what they stand for")])
        root = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise PolicyError([Finding(file, line, column, "", f"not YAML: {error.problem or error.context}")]) from error
    except yaml.YAMLError as error:
        raise PolicyError([Finding(file, 1, 1, "", f"not YAML: {error}")]) from error
    except RecursionError:
        raise PolicyError([Finding(file, 1, 1, "", _TOO_DEEP)]) from None
    builder = _Builder(Document(file), environment)
    if root is None:
        raise PolicyError([Finding(file, 1, 1, "", "the file is empty. Begin with: version: 1")])
    try:
        builder.document.data = builder.build(root, ())
    except RecursionError:
        raise PolicyError([Finding(file, 1, 1, "", _TOO_DEEP)]) from None
    builder.document.findings = tagged + builder.findings
    return builder.document


_TOO_DEEP = "it is nested too deeply, or an alias holds itself. Write it flat"


class _Builder:
    def __init__(self, document: Document, environment: Mapping[str, str]) -> None:
        self.document = document
        self.findings: list[Finding] = []
        self._environment = environment
        self._nodes = 0

    def build(self, node: yaml.Node, path: Path_) -> object:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise PolicyError(
                [Finding(self.document.file, 1, 1, "", "aliases blow the file up. Write what they stand for")]
            )
        self.document.values[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, index)) for index, child in enumerate(node.value)]
        return self._scalar(node, path) if isinstance(node, yaml.ScalarNode) else None

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, object]:
        result: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key == "<<":
                self._find(key_node, path, "this key is not a plain word. Merge keys and compound keys are not read")
                continue
            below = (*path, key)
            self.document.keys[below] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if key in result:
                self._find(key_node, below, "this key stands here twice. Keep one of them")
                continue
            result[key] = self.build(value_node, below)
        return result

    def _scalar(self, node: yaml.ScalarNode, path: Path_) -> object:
        text = node.value
        quoted = bool(node.style)
        if "${" in text:
            text = _REFERENCE.sub(lambda match: self._refer(match, node, path), text)
        if quoted and text == node.value:
            return text
        if not quoted and _YAML11_BOOLEAN.fullmatch(text) and not (text == "off" and path and path[-1] == "mode"):
            self._find(
                node,
                path,
                f'"{text}" is a boolean to some YAML readers and a word to others. Write true, false or quotes',
            )
        if not quoted and text == node.value and _OCTAL.fullmatch(text):
            self._find(node, path, f'"{text}" is octal to some YAML readers. Write it without the zero, or in quotes')
        if not quoted and _SEXAGESIMAL.fullmatch(text):
            self._find(node, path, f'"{text}" is a base-60 number to some YAML readers. Put it in quotes')
        return _plain(text)

    def _refer(self, match: re.Match[str], node: yaml.Node, path: Path_) -> str:
        if match["file"] is not None:
            return self._text_of(match["file"], node, path)
        name = match["name"]
        if name is None:
            self._find(node, path, "a reference reads ${NAME}, ${NAME:-default} or ${file:PATH}")
            return ""
        value = self._environment.get(name)
        if not value and (file := self._environment.get(name + "_FILE")):
            return self._text_of(file, node, path)
        if not value and name == "REDIS_URL" and self._environment.get("REDIS_HOST"):
            return self._redis_url(node, path)
        value = value or match["default"]
        if value is None:
            self._find(node, path, f"{name} is not set. Set it (or {name}_FILE), or write ${{{name}:-default}}")
            return ""
        if value == match["default"] and match["operator"] == ":~" and self._production:
            self._find(node, path, f"{name} has to be set in production (or {name}_FILE): its default is for a laptop")
        return value

    @property
    def _production(self) -> bool:
        return "production" in {self._environment.get(name) for name in ("ENVIRONMENT", "NODE_ENV")}

    def _redis_url(self, node: yaml.Node, path: Path_) -> str:
        """From REDIS_HOST, REDIS_PORT and REDIS_PASSWORD, the report's other way to say it."""
        given = self._environment
        password = given.get("REDIS_PASSWORD", "")
        if not password and (file := given.get("REDIS_PASSWORD_FILE")):
            password = self._text_of(file, node, path)
        owner = f":{quote(password, safe='')}@" if password else ""
        host = given["REDIS_HOST"]
        return f"redis://{owner}{f'[{host}]' if ':' in host else host}:{given.get('REDIS_PORT') or 6379}"

    def _text_of(self, file: str, node: yaml.Node, path: Path_) -> str:
        """A secret's file, without the line end that editors leave."""
        try:
            with Path(file).open(encoding="utf-8") as opened:
                text = opened.read(MAX_SECRET + 1)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
            self._find(node, path, f"{file} can't be read: {reason}")
            return ""
        if not text.strip() or len(text) > MAX_SECRET:
            self._find(node, path, f"{file} is empty, or larger than {MAX_SECRET} bytes")
        return text.rstrip("\r\n")

    def _find(self, node: yaml.Node, path: Path_, what: str) -> None:
        mark = node.start_mark
        self.findings.append(Finding(self.document.file, mark.line + 1, mark.column + 1, dotted(path), what))


def _plain(text: str) -> object:
    """A scalar's value. Numbers only where their text comes back from them, so that a secret of digits stays whole."""
    if text in ("true", "false"):
        return text == "true"
    if text in ("", "null", "~"):
        return None
    for pattern, number in ((_INTEGER, int), (_FLOAT, float)):
        if pattern.fullmatch(text) and str(number(text)) == text:
            return number(text)
    return text


def dotted(path: Path_) -> str:
    return ".".join(str(part) for part in path)
