"""Cells with FACS codes as written in the annotation sheets -> action-unit vectors of the clip contract.

The sheets join codes by `+` (CAS(ME)^3 part C by commas, some of them full-width) and write one code as

    [AU|AD|M][side]number[intensity][side][(k)][?]

with side L, R, T(op), B(ottom) or A(symmetric), intensity A to E. `12L`, `A/L12`, `10A/B`, `ref(7B)` and words
(`soft focus`) occur too. `or` (and `/` between numbers) separates codes of which the coder could not tell the right
one. Slot k of a vector is code k of FACS: units, descriptors (AD38) and movements (M57) share one numbering.

Unknown is not absent: where a cell holds codes, all other codes are absent (the coders looked at the whole face);
where it is blank or `?`, and for the codes of an unresolved alternative, the value is -1.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from mer_jax.data.clips import AU_SIDES, AU_SLOTS
from mer_jax.errors import UserError
from tfds_builders.common.sheets import MISSING_MARKS, cell_text, fold_width

Alternatives = Literal["first", "all", "drop"]

_JOINTS = re.compile(r"[+,;&\n]")
# "or" as a word, or squeezed between two codes ("L12orL14").
_OR = re.compile(r"\s*\bor\b\s*|(?<=[0-9A-E)])or(?=[0-9LRTBA(])|(?<=[0-9])\s*/\s*(?=[A-Za-z]{0,2}[0-9])", re.IGNORECASE)
_CODE = re.compile(
    r"(?P<doubt_before>\?)?\s*(?P<prefix>[A-Za-z]+(?:/[A-Za-z]+)*)?[\s.]*\(?\s*"
    r"(?P<number>[0-9]+)\s?(?P<suffix>[A-EL-Ra-el-r](?:/?[A-EL-Ra-el-r])*(?![A-Za-z]))?\)?\s*"
    r"(?P<kept>\(\s*k\s*\))?\s*(?P<doubt>\?)?",
)
_SIDES = {"L": "left", "R": "right", "T": "top", "B": "bottom", "A": "asymmetric"}
_KINDS = ("AU", "AD", "M")


@dataclasses.dataclass(frozen=True)
class Code:
    """One FACS code of a cell.

    Attributes:
      number: 1 to AU_SLOTS - 1.
      side: one of AU_SIDES.
      intensity: 0 not given, 1 to 5 = A to E (of `A/B` the first: INFERRED, the weaker one is certain).
      kind: "AU", or "AD" (descriptor) or "M" (head movement) where written so.
      doubtful: followed by `?`.
      kept: followed by `(k)`: the unit is held through the clip and does not move (4DME).
    """

    number: int
    side: str = "unspecified"
    intensity: int = 0
    kind: str = "AU"
    doubtful: bool = False
    kept: bool = False


@dataclasses.dataclass(frozen=True)
class ActionUnits:
    """What one cell says.

    Attributes:
      groups: one group a joined part; a group of several codes is a choice between them (`or`).
      complete: codes not listed are absent; False where nothing is coded or a part is `?`.
      words: parts without a number, as written.
      raw: the cell.
    """

    groups: tuple[tuple[Code, ...], ...] = ()
    complete: bool = False
    words: tuple[str, ...] = ()
    raw: str = ""

    def numbers(self, alternatives: Alternatives = "all") -> tuple[int, ...]:
        """Numbers of the codes in the order written, doubtful and kept ones included (as published totals count)."""
        return tuple(code.number for group in self.groups for code in _choose(group, alternatives))

    def vectors(self, alternatives: Alternatives = "first") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The vectors of the clip contract.

        Args:
          alternatives: `first` takes the first code of a choice, `all` takes every one, `drop` none of them; codes of a
            choice that are not taken are unknown.

        Returns:
          Presence (1, 0, -1 unknown), side (index into AU_SIDES) and intensity (0 not given, 1 to 5), int8 [AU_SLOTS].
        """
        present = np.full(AU_SLOTS, 0 if self.complete else -1, np.int8)
        sides = np.zeros(AU_SLOTS, np.int8)
        intensity = np.zeros(AU_SLOTS, np.int8)
        sure: dict[int, list[Code]] = {}
        for group in self.groups:
            chosen = _choose(group, alternatives)
            for code in group:
                # A kept unit shows (not absent) but makes no movement (not present): unknown.
                if code in chosen and not code.doubtful and not code.kept:
                    sure.setdefault(code.number, []).append(code)
                else:
                    present[code.number] = -1
        for number, codes in sure.items():
            present[number] = 1
            seen = {code.side for code in codes}
            # L12+R12 is one bilateral unit: no single side is right.
            sides[number] = AU_SIDES.index(seen.pop() if len(seen) == 1 else "unspecified")
            intensity[number] = max(code.intensity for code in codes)
        return present, sides, intensity


UNKNOWN = ActionUnits()


def _choose(group: Sequence[Code], alternatives: Alternatives) -> Sequence[Code]:
    if len(group) == 1 or alternatives == "all":
        return group
    return group[:1] if alternatives == "first" else ()


def parse_action_units(cell: object, where: str = "action units") -> ActionUnits:
    """Reads one cell.

    Args:
      cell: text or number (a lone `4` comes as a number).
      where: file, row and column, for the message.

    Raises:
      UserError: a code outside 1 to 99, or a number that is no code (`12.5`, a date).
    """
    raw = cell_text(cell)
    text = fold_width(raw).strip()
    if text.casefold() in MISSING_MARKS or text in ("0", "0.0"):  # a zero is a blank filled in, not a neutral face
        return ActionUnits(raw=raw)
    if re.fullmatch(r"[0-9]+\.0*", text):
        text = text.split(".")[0]
    elif re.search(r"[0-9]\s*[.:][0-9]|[0-9]-[0-9]", text):
        raise UserError(
            f"{where}: found {_shorten(raw)}, which is no list of action units (has a spreadsheet program changed the"
            " cell into a number or a date?); expected codes such as 4+L10; correct the cell"
        )
    groups: list[tuple[Code, ...]] = []
    words: list[str] = []
    unresolved = False
    for part in _JOINTS.split(text):
        part = part.strip()
        if not part:
            continue  # trailing commas
        if not re.search("[0-9]", part):
            unresolved |= "?" in part
            words += [] if set(part) <= {"?", " "} else [part]
            continue
        groups += _parse_part(part, raw, where)
    return ActionUnits(tuple(groups), bool(groups) and not unresolved, tuple(words), raw)


def _parse_part(part: str, raw: str, where: str) -> list[tuple[Code, ...]]:
    """The groups of one joined part; numbers separated by blanks alone are separate groups."""
    choices = [_parse_codes(piece, raw, where) for piece in _OR.split(part)]
    if len(choices) == 1:
        return [(code,) for code in choices[0]]
    group = tuple(code for codes in choices for code in codes)
    return [group] if group else []


def _parse_codes(piece: str, raw: str, where: str) -> list[Code]:
    codes = []
    for match in _CODE.finditer(piece):
        digits = match["number"].lstrip("0")
        number = int(digits) if 0 < len(digits) <= 3 else 0
        if not 0 < number < AU_SLOTS:
            raise UserError(
                f"{where}: found {_shorten(match['number'])} in {_shorten(raw)}; expected FACS codes from 1 to"
                f" {AU_SLOTS - 1} joined by '+'; correct the cell"
            )
        kind, prefix = _split_kind((match["prefix"] or "").upper())
        suffix = (match["suffix"] or "").upper().replace("/", "")
        letters = [c for c in prefix if c in _SIDES] if re.fullmatch(r"[LRTBAU/]*", prefix) else []
        letters += [c for c in suffix if c in "LR"]
        sides = {_SIDES[c] for c in letters}
        if "asymmetric" in sides:  # `A/L12`: asymmetric, stronger on the left
            sides = {"asymmetric"}
        strengths = [c for c in suffix if c in "ABCDE"]
        codes.append(
            Code(
                number=number,
                side=sides.pop() if len(sides) == 1 else "unspecified",
                intensity="ABCDE".index(strengths[0]) + 1 if strengths else 0,
                kind=kind,
                doubtful=bool(match["doubt"] or match["doubt_before"]),
                kept=bool(match["kept"]),
            )
        )
    return codes


def _split_kind(prefix: str) -> tuple[str, str]:
    """`AUL` -> (`AU`, `L`); `A`, `L` and words stay."""
    for kind in _KINDS:
        for candidate in (prefix.removeprefix(kind), prefix.removesuffix(kind)):
            if candidate != prefix and re.fullmatch(r"[LRTBA/]*", candidate):
                return kind, candidate
    return "AU", prefix


def count_numbers(cells: Iterable[ActionUnits], alternatives: Alternatives = "all") -> Counter[int]:
    """How often each code occurs: the totals that datasets and papers print."""
    return Counter(number for cell in cells for number in cell.numbers(alternatives))


def from_codes(codes: Iterable[tuple[int, int]], where: str, raw: str = "") -> ActionUnits:
    """Action units from (number, intensity) pairs of a file that lists all codes of a clip (CK+, MMI).

    Raises:
      UserError: a number outside 1 to 99 or an intensity outside 0 to 5.
    """
    groups = []
    for number, intensity in codes:
        if not 0 < number < AU_SLOTS or not 0 <= intensity <= 5:
            raise UserError(
                f"{where}: found action unit {number} of intensity {intensity}, expected 1 to 99 and 0 to 5"
            )
        groups.append((Code(number, intensity=intensity),))
    return ActionUnits(tuple(groups), complete=True, raw=raw)


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
