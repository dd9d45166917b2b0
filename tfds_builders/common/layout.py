"""Finding folders and sheets in the distributed trees, whose spelling differs from copy to copy."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path

from mer_jax.errors import UserError

_SHEETS = (".xls", ".xlsx", ".csv")


def children(folder: Path) -> tuple[str, ...]:
    """Sorted names in a folder, hidden and temporary ones left out; () where there is no such folder."""
    try:
        return tuple(sorted(e.name for e in folder.iterdir() if not e.name.startswith((".", "~$", "__MACOSX"))))
    except OSError:
        return ()


def folders(folder: Path) -> list[Path]:
    """Sorted folders in a folder."""
    return [folder / name for name in children(folder) if (folder / name).is_dir()]


def find(root: Path, *parts: str | Sequence[str]) -> Path | None:
    """The path below `root`, each part compared without case; a part may be several spellings, best first."""
    place = root
    for part in parts:
        spellings = (part,) if isinstance(part, str) else part
        match = next((s for s in spellings if s and (place / s).exists()), None)
        if match is None:  # listing a folder costs more than asking for a name: only where the case differs
            folded = {name.casefold(): name for name in reversed(children(place))}
            match = next((folded[s.casefold()] for s in spellings if s.casefold() in folded), None)
        if match is None:
            return None
        place = place / match
    return place


def root_folder(manual_dir: Path, names: Iterable[str], instructions: str, near: Path | None = None) -> Path:
    """The folder of one of the given names: beside the sheet, in `manual_dir`, that itself, or one level deeper.

    Args:
      manual_dir: where the user has put the data; it may hold several sets, each in a folder of its own.
      names: spellings of the folder, best first.
      instructions: how to obtain the data, for the message.
      near: the annotation sheet, where there is one: other sets have folders of the same name (`Cropped`).

    Raises:
      UserError: there is none (how to obtain the data and the expected tree are told), or there are several.
    """
    wanted = list(names)
    for name in wanted:
        for place in (manual_dir,) if near is None else (near.parent, manual_dir):
            if (found := find(place, name)) is not None and found.is_dir():
                return found
        if manual_dir.name.casefold() == name.casefold():
            return manual_dir
        deeper = [f for p in folders(manual_dir) if (f := find(p, name)) is not None and f.is_dir()]
        if len(deeper) > 1:
            listed = ", ".join(str(f.relative_to(manual_dir)) for f in deeper)
            raise UserError(f"{manual_dir}: several folders {name!r}: {listed}; give the folder of one dataset")
        if deeper:
            return deeper[0]
    listed = " or ".join(repr(n) for n in wanted)
    there = ", ".join(children(manual_dir)[:12]) or "nothing"
    raise UserError(f"{manual_dir}: no folder {listed}; found {there}. {instructions}")


def sheet(manual_dir: Path, patterns: Iterable[str], instructions: str, without: Iterable[str] = ()) -> Path:
    """The annotation sheet: the one file in `manual_dir`, or one level deeper, that matches a pattern, best first.

    Raises:
      UserError: none (the expected tree is told), or several of one pattern.
    """
    wanted, refused = list(patterns), list(without)
    files = [
        place / name
        for place in (manual_dir, *folders(manual_dir))
        for name in children(place)
        if name.lower().endswith(_SHEETS) and not any(fnmatch.fnmatch(name.lower(), p.lower()) for p in refused)
    ]
    for pattern in wanted:
        found = [f for f in files if fnmatch.fnmatch(f.name.lower(), pattern.lower())]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(str(f.relative_to(manual_dir)) for f in found)
            raise UserError(f"{manual_dir}: several annotation sheets: {listed}; keep the one to build from")
    there = ", ".join(f.name for f in files) or "no xls, xlsx or csv file"
    raise UserError(f"{manual_dir}: no annotation sheet {wanted[0]!r}; found {there}. {instructions}")


def optional_sheet(manual_dir: Path, patterns: Iterable[str]) -> Path | None:
    """Like `sheet`, None where there is none.

    Raises:
      UserError: several of one pattern.
    """
    places = (manual_dir, *folders(manual_dir))
    wanted = list(patterns)
    present = [n for p in places for n in children(p) if any(fnmatch.fnmatch(n.lower(), w.lower()) for w in wanted)]
    return sheet(manual_dir, wanted, "") if any(n.lower().endswith(_SHEETS) for n in present) else None
