"""A worked example of a licensed folder: synthetic faces laid out as CASME II is distributed.

    python -m tests.tfds_builders.casme2_example FOLDER

writes the sheet of 2014 and `CASME2_RAW_selected`, with the quirks of the real ones: frame numbers that start anywhere
and are not padded, subjects without leading zeros, spacer columns, blanks behind words, an apex of `/`, numbers and
texts of action units in one column.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mer_jax.data import frames as frames_lib
from mer_jax.data.clips import AU_SIDES, ClipRecord
from tests.tfds_builders import trees
from tfds_builders.synthetic_faces import generate

_SIDES = {"left": "L", "right": "R"}


def write(folder: Path, records: Iterable[ClipRecord]) -> list[tuple[str, ClipRecord]]:
    """Writes the micro-expressions among `records`; returns them with the names that they get as clips."""
    rows: list[list[object]] = []
    written: list[tuple[str, ClipRecord]] = []
    subjects: dict[str, int] = {}
    for record in records:
        if record.expression_type != "micro":
            continue
        subject = subjects.setdefault(record.subject, len(subjects) + 1)
        count = sum(name.startswith(f"casme2/{subject:02d}/") for name, _ in written)
        clip = f"EP{count // 5 + 1:02d}_{count % 5 + 1:02d}f"
        first = 1 + (37 * len(written)) % 120
        for number, encoded in enumerate(record.frames, start=first):
            path = folder / f"CASME2_RAW_selected/sub{subject:02d}/{clip}/img{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded)
        apex: object = "/" if len(written) == 3 else first + record.apex
        keys = [first + record.onset, apex, first + record.offset]
        rows.append([subject, clip, None, *keys, None, _cell(record), record.emotion + " " * (len(written) % 2)])
        written.append((f"casme2/{subject:02d}/{clip}", record))
    trees.write_xlsx(folder / "CASME2-coding-20140508.xlsx", {"Sheet1": [trees.CASME2_2014, *rows], "Sheet2": []})
    return written


def _cell(record: ClipRecord) -> object:
    units = np.flatnonzero(record.action_units == 1).tolist()
    if len(units) == 1 and not record.action_unit_sides[units[0]]:
        return units[0]  # a lone number is a number, as in the real sheet
    return "+".join(_SIDES.get(AU_SIDES[record.action_unit_sides[n]], "") + str(n) for n in units) or "?"


if __name__ == "__main__":
    clips = write(Path(sys.argv[1]), generate.generate("tiny_micro"))
    size = frames_lib.decode(clips[0][1].frames[0]).shape
    print(f"{len(clips)} clips of {len({r.subject for _, r in clips})} people, frames {size}, in {sys.argv[1]}")
