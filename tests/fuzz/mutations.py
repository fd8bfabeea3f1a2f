"""Odd inputs: anything, and good inputs after some edits. A document of JSON also gets odd values in odd places.

Hypothesis draws each choice by itself, which takes longer than the readers do; here a thousand inputs take about a second.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

# What has meant something to one of the readers, or to what they are built on.
TOKENS = [
    *(b"\0", b"\n", b"\r\n", b"\x0b", b"\x1b[2J", b"\xff", b"\xed\xa0\x80", "\u2028\u202e".encode(), b" ", b"\t", b"#", b"=", b":"),
    *(b"/", b"../", b"'", b'"', b"\\", b"\\1", b"\\g<0>", b"{", b"}", b"[", b"]", b"(", b")", b"$x", b"${saved_entry}", b"%s", b"x"),
    *(b"0", b"-1", b"1e999", b"NaN", b"Infinity", b"9" * 25, b"9" * 5000, b"0x", b"sha256:", b"--help", b"https:", b"nvidia"),
    *(b"NVRM: ", b"Xid (", b"error: ", b"ld: ", b"undefined reference to ", b"libcuda.so", b"[1.0] "),
    *(b"menuentry 'x' {", b"submenu 'x' {", b"set default="),
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 0.5, 2**31, 2**63, -(2**63) - 1, 10**30, 10**400, 1e300, float("inf"), float("nan"), [], {}, [[]]),
    *("", "..", "/", "a\0b", "\ud800", "\udcff", "x" * 5000, "../x", "usr/../x", "file", "link", "folder", "0" * 64, ["x"], {"x": 1}),
]
_MANY = 20_000  # bytes, of a token that is repeated


class Mutator:
    """Makes inputs from good ones, always the same for the same random numbers."""

    def __init__(self, random: Random, seeds: tuple[bytes, ...]) -> None:
        self.random, self.seeds = random, seeds
        self.documents = [seed for seed in seeds if _is_document(seed)]

    def make(self) -> bytes:
        """One input."""
        if self.random.random() < 0.05:
            return self.random.randbytes(self.random.randrange(300))
        if self.documents and self.random.random() < 0.5:
            return self._odd_document(self.random.choice(self.documents))
        return self._edited(self.random.choice(self.seeds))

    def _edited(self, data: bytes) -> bytes:
        pick = self.random
        for _ in range(pick.randint(1, 4)):
            begin, end = sorted((pick.randint(0, len(data)), pick.randint(0, len(data))))
            end = pick.choice([begin, end, min(end, begin + 8)])
            piece = pick.choice([b"", pick.choice(TOKENS), pick.choice(TOKENS), pick.randbytes(pick.randrange(9)), data[begin:end]])
            piece *= pick.choice([1, 1, 1, 1, 2, 100, 1 + _MANY // max(1, len(piece))])
            data = data[:begin] + piece + data[end:]
        return data

    def _odd_document(self, seed: bytes) -> bytes:
        pick, document = self.random, json.loads(seed)
        *way, last = pick.choice(list(_places(document)))
        holder = document
        for step in way:
            holder = holder[step]
        change = pick.choice(["value", "value", "value", "delete", "add", "deep"])
        if change == "delete":
            del holder[last]
        elif change == "add" and isinstance(holder, dict):
            holder[str(pick.choice(VALUES))] = pick.choice(VALUES)
        else:
            holder[last] = "DEEP" if change == "deep" else pick.choice(VALUES)
        levels = pick.randint(1, 3000)
        return json.dumps(document).replace('"DEEP"', "[" * levels + "]" * levels).encode()


def _is_document(seed: bytes) -> bool:
    try:
        return bool(list(_places(json.loads(seed))))
    except ValueError:
        return False


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*place, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 3)):  # the others are alike
            yield from _places(value[index], (*place, index))


def smaller(data: bytes, is_find: Callable[[bytes], bool], tries: int = 300) -> bytes:
    """A part of ``data`` that is a find too, as small as some tries make it."""
    size = len(data) // 2
    while size and tries:
        for begin in range(0, len(data), size):
            shorter = data[:begin] + data[begin + size :]
            tries -= 1
            if is_find(shorter):
                data = shorter
                break
            if not tries:
                break
        else:
            size //= 2
    return data
