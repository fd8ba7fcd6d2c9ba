"""Small changes to a module's code: mutmut's operators, and three that it lacks.

Left alone is what carries no behaviour: annotations, decorators, imports, type aliases, what is
logged, and strings (most are the wording of messages).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_string

LOG = m.Attribute(value=m.Name("log"))
NO_BEHAVIOUR = (
    m.Annotation()
    | m.Decorator()
    | m.Import()
    | m.ImportFrom()
    | m.If(test=m.Name("TYPE_CHECKING"))
    | m.Assign(value=m.Subscript())
    | m.Assign(value=m.Call(func=m.Name("TypeVar")))
    | m.Call(func=LOG)
    | m.Expr(value=m.Call(func=LOG))
)
KINDS_WITHOUT = (
    *(cst.Annotation, cst.Decorator, cst.Import, cst.ImportFrom),
    *(cst.If, cst.Assign, cst.Call, cst.Expr),
)
OPPOSITES = {"max": "min", "min": "max", "any": "all", "all": "any"}
STRING = m.SimpleString() | m.FormattedString() | m.ConcatenatedString()


@dataclass(frozen=True)
class Mutant:
    """A change of one place.

    Args:
        path: of the module, relative to the repository.
        function: qualified name of the outermost function around it; empty outside of functions.
        in_body: whether it lies in that function's body, not in its signature.
        lines: first and last line of the statement, from 1.
        before, after: the lines that differ, without their indentation.
        occurrence: how many mutants with the same description come before it.
        code: the whole module with the change.
    """

    path: str
    function: str
    in_body: bool
    lines: tuple[int, int]
    before: str
    after: str
    occurrence: int
    code: str

    @property
    def description(self) -> tuple[str, str, str, str]:
        """What identifies the change while the code around it moves."""
        return self.path, self.function, self.before, self.after

    @property
    def name(self) -> str:
        text = "\0".join([*self.description, str(self.occurrence)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def mutants_of(root: Path, path: str) -> list[Mutant]:
    """All mutants of the module at `path`, in the order of its lines."""
    source = (root / path).read_text(encoding="utf-8")
    wrapper = MetadataWrapper(cst.parse_module(source))
    module, positions = wrapper.module, wrapper.resolve(PositionProvider)
    compiled = compile(source, "", "exec")
    texts = [module.code_for_node(statement) for statement in module.body]
    start = source.index("".join(texts))
    found: list[Mutant] = []
    seen: Counter[tuple[str, str, str]] = Counter()
    for statement, text in zip(module.body, texts, strict=True):
        visitor = _Places(positions)
        statement.visit(visitor)
        for place in visitor.places:
            for replacement in _changes(place.node):
                changed = module.code_for_node(_replaced(statement, place.node, replacement))
                code = source[:start] + changed + source[start + len(text) :]
                if not _is_another_program(compiled, code):
                    continue
                before, after = _difference(text, changed)
                key = (place.function, before, after)
                found.append(
                    Mutant(
                        path, place.function, place.in_body, place.lines, *key[1:], seen[key], code
                    )
                )
                seen[key] += 1
        start += len(text)
    return found


def _replaced(statement: cst.CSTNode, node: cst.CSTNode, replacement: cst.CSTNode) -> cst.CSTNode:
    if node is statement:
        return replacement
    changed = statement.deep_replace(node, replacement)
    assert isinstance(changed, cst.CSTNode)
    return changed


@dataclass(frozen=True)
class _Place:
    node: cst.CSTNode
    function: str
    in_body: bool
    lines: tuple[int, int]


class _Places(cst.CSTVisitor):
    """Every node that may be changed, with the function and the statement around it."""

    def __init__(self, positions: object) -> None:
        super().__init__()
        self.places: list[_Place] = []
        self._positions = positions
        self._names: list[str] = []
        self._function = ""
        self._bodies: list[cst.CSTNode] = []
        self._in_body = False
        self._statements: list[tuple[int, int]] = [(1, 1)]

    def on_visit(self, node: cst.CSTNode) -> bool:
        if _has_no_behaviour(node):
            return False
        if isinstance(node, (cst.ClassDef, cst.FunctionDef)):
            self._names.append(node.name.value)
            if isinstance(node, cst.FunctionDef) and not self._function:
                self._function = ".".join(self._names)
                self._bodies.append(node.body)
        if self._bodies and node is self._bodies[-1]:
            self._in_body = True
        if isinstance(node, (cst.SimpleStatementLine, cst.BaseCompoundStatement)):
            self._statements.append(self._span(node))
        self.places.append(
            _Place(node, self._function, self._in_body, self._statements[-1]),
        )
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if _has_no_behaviour(original_node):
            return
        if isinstance(original_node, (cst.SimpleStatementLine, cst.BaseCompoundStatement)):
            self._statements.pop()
        if isinstance(original_node, (cst.ClassDef, cst.FunctionDef)):
            if self._function == ".".join(self._names):
                self._function, self._in_body = "", False
                if isinstance(original_node, cst.FunctionDef):
                    self._bodies.pop()
            self._names.pop()

    def _span(self, node: cst.CSTNode) -> tuple[int, int]:
        place = self._positions[node]
        last = place.end.line
        if isinstance(node, cst.BaseCompoundStatement):  # its head; the body has its own
            last = max(place.start.line, self._positions[node.body].start.line - 1)
        return place.start.line, last


def _has_no_behaviour(node: cst.CSTNode) -> bool:
    return isinstance(node, KINDS_WITHOUT) and m.matches(node, NO_BEHAVIOUR)


def _changes(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    for kind, operator in mutation_operators:
        if isinstance(node, kind) and operator is not operator_string:
            for changed in operator(node):
                if not _changes_a_string(node, changed):
                    yield changed
    yield from _statement_removed(node)
    yield from _condition_negated(node)
    if isinstance(node, cst.Name) and node.value in OPPOSITES:
        yield node.with_changes(value=OPPOSITES[node.value])


def _changes_a_string(node: cst.CSTNode, changed: cst.CSTNode) -> bool:
    """Whether an argument that is a string was replaced or removed."""
    if not (isinstance(node, cst.Call) and isinstance(changed, cst.Call)):
        return False
    kept = {id(argument) for argument in changed.args}
    return any(
        m.matches(argument.value, STRING) for argument in node.args if id(argument) not in kept
    )


def _statement_removed(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    """A call whose value nobody takes, or a deletion, does not happen."""
    removed = isinstance(node, cst.Expr) and isinstance(node.value, cst.Call)
    if removed or isinstance(node, cst.Del):
        yield cst.Pass()


def _condition_negated(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    if isinstance(node, (cst.If, cst.CompIf)):
        condition = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(test=cst.UnaryOperation(cst.Not(), condition))


def _is_another_program(compiled: CodeType, code: str) -> bool:
    try:
        return compile(code, "", "exec") != compiled
    except SyntaxError:
        return False


def _difference(source: str, code: str) -> tuple[str, str]:
    old, new = source.splitlines(), code.splitlines()
    same = [before == after for before, after in zip(old, new, strict=False)]
    start = same.index(False) if False in same else len(same)
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    return _joined(old[start : len(old) - end]), _joined(new[start : len(new) - end])


def _joined(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines)
