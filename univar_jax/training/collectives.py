"""What a compiled program sends between devices, read out of its HLO text."""

import collections
import re
from collections.abc import Iterator

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")

_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
# name = type opcode(operands…: a type holds no "word(" after a space.
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.-]+) = (.+?) ([a-z][a-z0-9-]*)\((.*)")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")


def count(hlo: str) -> dict[str, dict[str, int]]:
    """The collectives of a program, by kind.

    One that is written in several steps (its start, its end, the fusions between) has one channel and counts once.
    One inside a loop counts once too, however often the loop turns.

    Args:
      hlo: the text of the compiled program.

    Returns:
      For each of KINDS that there is: count, how many of them are in_loops, and bytes on one device: the whole arrays,
      what an all-gather makes, an all-reduce sums or a reduce-scatter takes in.
    """
    bodies = dict(_computations(hlo))
    looped = _looped(bodies)
    sizes = {name: _bytes(kind) for lines in bodies.values() for name, kind, _, _ in lines}
    found: dict[tuple[str, str], tuple[int, bool]] = {}
    for body, lines in bodies.items():
        for name, kind, opcode, rest in lines:
            word = opcode.removesuffix("-start")
            if word not in KINDS:
                continue
            if word == "all-reduce" and "all-reduce-scatter" in body:  # how a TPU's compiler writes the other
                word = "reduce-scatter"
            channel = re.search(r"channel_id=(\d+)", rest)
            key = word, channel[1] if channel else name
            given = sum(sizes.get(operand, 0) for operand in re.findall(r"%([\w.-]+)", rest.split("), ")[0]))
            made = sizes[name] - given if opcode != word and kind.startswith("(") else sizes[name]
            size, inside = found.get(key, (0, False))
            found[key] = max(size, given, made), inside or body in looped
    return _sums(found)


def _sums(found: dict[tuple[str, str], tuple[int, bool]]) -> dict[str, dict[str, int]]:
    sums = {kind: collections.Counter() for kind in KINDS}
    for (kind, _), (size, inside) in found.items():
        sums[kind].update(count=1, in_loops=int(inside), bytes=size)
    return {kind: dict(numbers) for kind, numbers in sums.items() if numbers["count"]}


def _computations(hlo: str) -> Iterator[tuple[str, list[tuple[str, str, str, str]]]]:
    """Each computation's name and its instructions: name, type, opcode, and the rest of the line."""
    name, lines = "", []
    for line in hlo.splitlines():
        if head := _HEAD.match(line):
            name, lines = head[1], []
        elif line == "}":
            yield name, lines
        elif found := _INSTRUCTION.match(line):
            lines.append(found.groups())


def _looped(bodies: dict[str, list[tuple[str, str, str, str]]]) -> set[str]:
    """The computations that some loop's body calls, over however many others."""
    names = {body: set(re.findall(r"%([\w.-]+)", " ".join(line[3] for line in bodies[body]))) for body in bodies}
    todo = [name for lines in bodies.values() for *_, rest in lines for name in re.findall(r"body=%([\w.-]+)", rest)]
    inside: set[str] = set()
    while todo:
        body = todo.pop()
        if body in bodies and body not in inside:
            inside.add(body)
            todo.extend(names[body])
    return inside


def _bytes(kind: str) -> int:
    """Of an array's type, or of all arrays in a tuple's."""
    bits = 0
    for dtype, shape in _ARRAY.findall(kind):
        size = 1
        for axis in filter(None, shape.split(",")):
            size *= int(axis)
        bits += size * (8 if dtype == "pred" else int(re.search(r"\d+", dtype)[0]))
    return bits // 8
