"""Frames of a clip by the number in their file names.

Sheets name frames by those numbers, not by the position in a listing, and most sets do not pad them, so that sorted
names are in the wrong order. The number is the last run of digits of the stem.
"""

from __future__ import annotations

import bisect
import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

from mer_jax.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
_DIGITS = re.compile(r"[0-9]+")
_MAX_DIGITS = 15


def frame_number(name: str) -> int:
    """The last run of digits of a file name's stem: `reg_img46.jpg` -> 46, `EP01_5-12.jpg` -> 12.

    Raises:
      UserError: the stem holds no digits, or more than any recorder writes.
    """
    base = re.split(r"[/\\]", name)[-1]
    stem = base.rsplit(".", 1)[0] if "." in base else base
    runs = _DIGITS.findall(stem)
    if not runs or len(runs[-1].lstrip("0")) > _MAX_DIGITS:
        raise UserError(
            f"{_shorten(name)}: expected a frame number in the file name, such as img46.jpg; rename the file"
        )
    return int(runs[-1][-_MAX_DIGITS:])


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 80 else "..." + text[-77:])


@dataclasses.dataclass(frozen=True)
class FrameMap:
    """The frames of one clip: `paths[p]` is the frame at position p, `numbers[p]` its number (rising, gaps allowed)."""

    folder: Path
    numbers: tuple[int, ...]
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def position(self, number: int) -> tuple[int, str]:
        """Position of a frame number.

        Returns:
          The position and "" where that frame exists; else that of the previous frame (in a gap), or of the first or
          last one, with a sentence about it.
        """
        at = bisect.bisect_left(self.numbers, number)
        if at < len(self.numbers) and self.numbers[at] == number:
            return at, ""
        if at == 0:
            return 0, f"frame {number} is before the first frame {self.numbers[0]}, which is taken"
        if at == len(self.numbers):
            return at - 1, f"frame {number} is after the last frame {self.numbers[-1]}, which is taken"
        return at - 1, f"frame {number} is missing, the previous frame {self.numbers[at - 1]} is taken"

    def between(self, first: int, last: int) -> FrameMap:
        """The frames with numbers from `first` to `last`."""
        low, high = bisect.bisect_left(self.numbers, first), bisect.bisect_right(self.numbers, last)
        return FrameMap(self.folder, self.numbers[low:high], self.paths[low:high])


def list_frames(folder: Path, suffixes: Iterable[str] = IMAGE_SUFFIXES) -> FrameMap:
    """Lists the frames of a clip folder by number; hidden files and other kinds of files are passed over.

    Raises:
      UserError: no such folder, no frames in it, a file name without number, or two files of one number.
    """
    allowed = tuple(s.lower() for s in suffixes)
    try:
        names = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder}: cannot list the clip folder ({error.strerror or error})") from error
    frames: dict[int, Path] = {}
    for path in sorted(names):
        if path.suffix.lower() not in allowed:
            continue
        number = _number_of(path)
        if number in frames:
            raise UserError(
                f"{folder}: {frames[number].name} and {path.name} are both frame {number}; expected one file a frame;"
                " remove the copy"
            )
        frames[number] = path
    if not frames:
        raise UserError(
            f"{folder}: no frames; found {len(names)} other files; expected images ({', '.join(allowed)});"
            " unpack the clip again"
        )
    order = sorted(frames)
    return FrameMap(folder, tuple(order), tuple(frames[n] for n in order))


def _number_of(path: Path) -> int:
    try:
        return frame_number(path.name)
    except UserError as error:
        raise UserError(f"{path.parent}: {error}") from error
