"""Draws tiny copies of the distributed trees: sheets in their real shapes, frames of a few pixels."""

from __future__ import annotations

import importlib
import re
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import openpyxl

from mer_jax.data import frames as frames_lib
from mer_jax.data.clips import ClipRecord
from tfds_builders.common import jobs
from tfds_builders.common.report import BuildReport, Skipped

Cells = Sequence[object]


def write_xlsx(path: Path, sheets: Mapping[str, Iterable[Cells]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    book.save(path)
    return path


def add_formulas(path: Path, sheet_number: int, keep_values: bool = True) -> Path:
    """Turns the numbers of a worksheet into formulas that carry these numbers as stored values (or none)."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = f"xl/worksheets/sheet{sheet_number}.xml"
    value = rb"<f>other!A1</f><v>\2</v>" if keep_values else b"<f>other!A1</f><v></v>"
    parts[name] = re.sub(rb'(<c r="[A-Z]+[0-9]+" t="n">)<v>([^<]*)</v>', rb"\1" + value, parts[name])
    with zipfile.ZipFile(path, "w") as archive:
        for part, content in parts.items():
            archive.writestr(part, content)
    return path


def write_xls(path: Path, sheets: Mapping[str, Sequence[Cells]]) -> Path:
    """A minimal BIFF5 workbook: text and number cells."""

    def record(kind: int, payload: bytes = b"") -> bytes:
        return struct.pack("<HH", kind, len(payload)) + payload

    def begin(kind: int) -> bytes:
        return record(0x0809, struct.pack("<HHHH", 0x0500, kind, 0, 1995))

    def cell(row: int, column: int, value: object) -> bytes:
        place = struct.pack("<HHH", row, column, 0)
        if isinstance(value, int | float):
            return record(0x0203, place + struct.pack("<d", float(value)))
        text = str(value).encode("cp1252")
        return record(0x0204, place + struct.pack("<H", len(text)) + text)

    bodies = [
        begin(0x0010)
        + b"".join(cell(r, c, v) for r, row in enumerate(rows) for c, v in enumerate(row) if v is not None)
        + record(0x000A)
        for rows in sheets.values()
    ]

    def globals_(offsets: Sequence[int]) -> bytes:
        names = [n.encode("cp1252") for n in sheets]
        bounds = [record(0x0085, struct.pack("<IHB", o, 0, len(n)) + n) for o, n in zip(offsets, names, strict=True)]
        return begin(0x0005) + record(0x0042, struct.pack("<H", 1252)) + b"".join(bounds) + record(0x000A)

    at, offsets = len(globals_([0] * len(bodies))), []
    for body in bodies:
        offsets.append(at)
        at += len(body)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(globals_(offsets) + b"".join(bodies))
    return path


def frame(number: int, channels: int = 3, height: int = 10, width: int = 12) -> np.ndarray:
    """uint8 [height, width, channels] that tells its number: a gradient and the number's digits as grey levels."""
    image = np.zeros((height, width, channels), np.uint8)
    image[:] = np.arange(width)[None, :, None] * 10 + np.arange(channels) * 3
    image[0, 0] = number % 256
    image[-1, -1] = number // 256 % 256
    return image


def write_image(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[:, :, ::-1] if image.shape[2] == 3 else image)
    return path


def write_frames(folder: Path, numbers: Iterable[int], name: str = "img{}.jpg", channels: int = 3) -> Path:
    for number in numbers:
        write_image(folder / name.format(number), frame(number, channels))
    return folder


def write_video(path: Path, numbers: Iterable[int], fps: float = 25.0, height: int = 48, width: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), code, fps, (width, height))
    assert writer.isOpened()
    for number in numbers:
        writer.write(frame(number, height=height, width=width))
    writer.release()
    return path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# Header rows of the distributed sheets; None is a spacer column without a name.
CASME = [
    "Subject", "Filename", None, "OnsetF", "ApexF1", "ApexF2", "OffsetF", None, "Onset", "Total", "AU", "Emotion",
]  # fmt: skip
CASME2_2014 = [
    "Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None, "Action Units", "Estimated Emotion",
]  # fmt: skip
CASME2_2019 = [*CASME2_2014, "Objective Classes"]
SAMM = [
    "Subject", "Filename", "Inducement Code", "Onset Frame", "Apex Frame", "Offset Frame", "Duration", "Micro",
    "Action Units", "Estimated Emotion", "Objective Classes", "Notes",
]  # fmt: skip
SAMM_LONG = [
    "Subject", "Filename", "Inducement Code", "Onset", "Apex", "Offset", "Duration", "Type", "Action Units", "Notes",
]  # fmt: skip
SMIC_E = [
    "Subject", "Filename", None, "OnsetF", "OffsetF", "Onset2F", "Offset2F", "Onset3F", "Offset3F", None, "FirstF",
    "LastF", "TotalMF1", "TotalMF2", "TotalMF3", "TotalVL", "Emotion",
]  # fmt: skip
CASME3 = ["Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion"]
CASME3_MACRO = ["Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Expression type", "Objective class"]
CASME3_C = ["sub", "count", "onset", "offset", "au", "emotion"]
MMEW = [
    "Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units", "Estimated Emotion", "remarks",
]  # fmt: skip
FOURDME = [
    "sub_ID", "fold_name", "Emotion", "Onset", "Apex", "Offset", "AUs", "fold", "eye blink", "Positive", "Negative",
    "Surprise", "Repression", "Others", "Total", "AU4", "self-report emo'",
]  # fmt: skip
DFME = ["Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Emotion", "EmotionId", "Fps", "AU"]


def samm_sheet(path: Path, rows: Iterable[Cells], preamble: int = 13, worksheet: str = "MICRO_ONLY") -> Path:
    notes = [[f"SAMM note {i}"] if i % 2 else [] for i in range(preamble)]
    return write_xlsx(path, {worksheet: [*notes, SAMM, *rows]})


def casme_squared_sheet(path: Path, rows: Iterable[Cells]) -> Path:
    return write_xlsx(
        path,
        {
            "CASFEcode_final": rows,
            "naming rule1": [["s15", 1], ["s16", 2]],
            "naming rule2": [["0101", "disgust1"], ["0401", "anger1"], [505, "happy1"]],
        },
    )


def run_builder(
    name: str, config: str | None, manual_dir: Path, data_dir: Path
) -> tuple[dict[str, ClipRecord], list[Skipped], BuildReport]:
    """All clips of a builder, made in this process without TensorFlow; checks that no row was lost."""
    module = importlib.import_module(f"tfds_builders.{name}.{name}_dataset_builder")
    builder = module.Builder(config=config, data_dir=str(data_dir))
    report = BuildReport()
    results = list(jobs.run(builder.clips(manual_dir, report), 1))
    records = [r for r in results if isinstance(r, ClipRecord)]
    skipped = [r for r in results if isinstance(r, Skipped)]
    for row in skipped:
        report.skip(row.row, row.reason)
    report.clips = len(records)
    report.to_json()
    by_name = {r.clip: r for r in records}
    assert len(by_name) == len(records)
    return by_name, skipped, report


def numbers_of(record: ClipRecord) -> list[int]:
    """The numbers that `frame` drew into the frames of a clip (lossless frames only)."""
    found = [frames_lib.decode(f) for f in record.frames]
    return [int(f[0, 0, 0]) + 256 * int(f[-1, -1, 0]) for f in found]


def units_of(record: ClipRecord) -> list[int]:
    return [int(n) for n in np.flatnonzero(record.action_units == 1)]
