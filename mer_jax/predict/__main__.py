"""Recognises expressions in a recording with a finished run.

  python -m mer_jax.predict workdir/ma2mi video.mp4 --out found
  python -m mer_jax.predict workdir/mol frames/ --fps 100 --align clip --model face_landmarker.task
  python -m mer_jax.predict workdir/fdp clips.csv

INPUT is a video file, a folder of frames (with --fps), or a CSV with the columns of a clip folder. A row with onset and
offset is one event; everything else is looked at through windows that slide. OUT gets probabilities.csv, intervals.csv
(where the run has a neutral class), timeline.png, strip.png, annotated.mp4 and prediction.json.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mer_jax.errors import MerError, UserError

CACHE = "~/.cache/mer_jax/compiled"  # as of python -m mer_jax.main


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    given = _parser().parse_args(argv)
    try:
        _run(given)
    except MerError as error:
        print(f"mer_jax: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("mer_jax: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    lines = (__doc__ or "").split("\n")
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.predict",
        description=lines[0],
        epilog="\n".join(lines[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="workdir of a finished run, or the OUT of mer_jax.convert")
    add("input", type=Path, metavar="INPUT", help="video, folder of frames, or .csv")
    add("--out", type=Path, help="folder for the results (default: predictions/<name of the input>)")
    add("--fold", help="use this fold alone (default: all that did not learn from the person)")
    add("--seed", type=int, help="seed of the run (default: its first)")
    add(
        "--subject",
        default="",
        help="who is seen, as the run's data call them; then only folds that held them out look",
    )
    add("--dataset", default="", help="the dataset of --subject, where the run has several")
    add("--fps", type=float, help="frames a second of the input (default: what the video says)")
    add("--box", type=_box, metavar="X,Y,W,H", help="part of the frames that is looked at, in pixels")
    add("--align", choices=("none", "clip", "released"), help="how faces are cut out (default: as in the run)")
    add("--align_margin", type=float, help="side of the cut over the face's box (default: as in the run)")
    add("--landmarks", type=Path, help="68 landmarks of every frame: .npy [T, 68, 2], or OpenFace's .csv")
    add("--model", type=Path, help="face_landmarker.task of MediaPipe, to find landmarks where none are given")
    add("--window", type=float, help="seconds of a window (default: the median event, or clip, of the run's data)")
    add("--stride", type=float, help="seconds from one window to the next (default: a quarter of a window)")
    add("--rate", type=float, help="frames a second of the windows (default: nearest training rate; 0: the input's)")
    add(
        "--threshold",
        type=float,
        default=0.5,
        help="least probability of an expression in an interval (default: 0.5; right ones depend on the classes)",
    )
    add("--min_duration", type=float, help="seconds that an interval lasts at least (default: half a window)")
    add("--batch", type=int, default=16, help="windows that are looked at in one call (default: 16)")
    add("--no_video", action="store_true", help="do not write annotated.mp4 (lists never get one)")
    return parser


def _box(text: str) -> tuple[int, int, int, int]:
    if not re.fullmatch(r"\d+(,\d+){3}", text) or min(int(n) for n in text.split(",")[2:]) == 0:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected x,y,w,h in whole pixels, w and h above 0")
    x, y, w, h = (int(n) for n in text.split(","))
    return x, y, w, h


def _run(given: Any) -> None:
    import jax  # what takes seconds comes after the flags are read

    from mer_jax.data.landmarks import FaceLandmarker
    from mer_jax.predict import Options, Predictor, outputs, recordings

    for name in ("fps", "batch", "align_margin"):
        value = getattr(given, name)
        if value is not None and not value > 0:
            raise UserError(f"--{name}: found {value}; expected a number above 0")
    if not 0 < given.threshold < 1:
        raise UserError(f"--threshold: found {given.threshold}; expected a probability between 0 and 1")
    found = recordings.read(
        given.input, given.fps, given.box, given.landmarks, given.dataset, given.subject
    )  # fmt: skip
    jax.config.update("jax_compilation_cache_dir", str(Path(CACHE).expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    options = Options(
        given.window, given.stride, given.rate, given.align, given.align_margin, given.threshold, given.min_duration,
        given.batch,
    )  # fmt: skip
    run = given.run.expanduser()
    with contextlib.ExitStack() as stack:
        landmarker = stack.enter_context(FaceLandmarker(given.model)) if given.model else None
        predictor = Predictor(run, options, given.fold, given.seed, landmarker)
        if predictor.alignment.kind == "none" and (given.model or given.landmarks):
            raise UserError(
                "--model, --landmarks: nothing would read them, as this run takes frames as they are; add --align clip"
            )
        rhythm = predictor.rhythm
        print(
            f"windows of {rhythm.window:.3f} s every {rhythm.stride:.3f} s; alignment {predictor.alignment.kind}; "
            f"{predictor.ensemble.settings.system}, {', '.join(predictor.classes)}",
            flush=True,
        )
        results = [predictor.predict(recording) for recording in found]
        out = given.out or Path("predictions") / given.input.resolve().stem
        written = outputs.write(out, predictor, results, video=len(found) == 1 and not given.no_video)
    for one in results:
        count = "" if one.intervals is None else f", {len(one.intervals)} intervals with an expression"
        rate = one.decoded / one.seconds
        print(f"{one.recording.name}: {len(one.frames)} windows, {len(one.folds)} folds{count}; {rate:.1f} frames/s")
    for note in dict.fromkeys(note for one in results for note in one.notes):
        print(f"note: {note}")
    print(outputs.meaning(results[0]))
    print("\n".join(str(path) for path in written))


if __name__ == "__main__":
    sys.exit(main())
