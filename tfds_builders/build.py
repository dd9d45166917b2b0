"""Builds datasets: `python -m tfds_builders.build NAME[/CONFIG] [--manual_dir DIR] [--data_dir DIR]`.

A dataset is built in a temporary directory, flushed to disk, marked as finished and renamed into place: a build that is
killed at any moment leaves nothing that is trusted later. Two builds of one dataset wait for each other.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import fcntl
import importlib
import io
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from mer_jax import files
from mer_jax.data import index as index_lib
from mer_jax.data.source import default_data_dir
from mer_jax.errors import MerError, UserError

_HERE = Path(__file__).parent
_WORKSHOP = ".building"  # below data_dir: half-built datasets and locks


def dataset_names() -> list[str]:
    """All datasets there are: folders with `<name>_dataset_builder.py`."""
    return sorted(
        p.parent.name for p in _HERE.glob("*/*_dataset_builder.py") if p.stem == f"{p.parent.name}_dataset_builder"
    )


def builder_class(name: str) -> Any:
    """The builder of a dataset.

    Raises:
      UserError: there is no such dataset; the nearest name is suggested.
    """
    names = dataset_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}"
        raise UserError(f"unknown dataset {name!r}; {hint}")
    return importlib.import_module(f"tfds_builders.{name}.{name}_dataset_builder").Builder


def make_builder(name: str, data_dir: Path, options: Mapping[str, Any] | None = None) -> Any:
    """An instance of the builder of `dataset[/config]`.

    Raises:
      UserError: unknown dataset, config or option.
    """
    dataset, _, config_name = name.partition("/")
    cls = builder_class(dataset)
    known = {c.name: c for c in cls.BUILDER_CONFIGS}
    config: Any = None
    if cls.custom_config is not None:
        if not config_name:
            raise UserError(f"{dataset}: give your set a name, as in {dataset}/my_clips")
        if not config_name.replace("_", "").replace("-", "").replace(".", "").isalnum():
            raise UserError(f"{name!r}: the name may hold letters, digits, '_', '-' and '.' only")
        config = cls.custom_config(name=config_name, **(options or {}))
    elif config_name:
        if config_name not in known:
            near = difflib.get_close_matches(config_name, known, n=1)
            hint = f"did you mean {dataset}/{near[0]}?" if near else f"there are: {', '.join(known) or 'no configs'}"
            raise UserError(f"{dataset} has no config {config_name!r}; {hint}")
        config = known[config_name]
    elif known:
        listed = ", ".join(f"{dataset}/{c}" for c in known)
        raise UserError(f"{dataset} has several configs; say which: {listed}")
    return cls(config=config, data_dir=str(data_dir), file_format="array_record")


def is_finished(builder: Any, directory: Path, manual_dir: Path | None) -> bool:
    """Whether `directory` holds a whole build of the same code, config and (where `manual_dir` is given) data."""
    marker = index_lib.read_marker(directory)
    if marker is None or marker["build"] != builder.build_key():
        return False
    if manual_dir is not None and marker["source"] != builder.source_key(manual_dir):
        return False
    with contextlib.suppress(UserError):
        index_lib.check_files(directory, marker)
        return True
    return False


def build(
    name: str,
    data_dir: Path | str | None = None,
    manual_dir: Path | str | None = None,
    processes: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Builds one dataset unless it is finished; imports TensorFlow if it has to build.

    Args:
      name: `dataset` or `dataset/config`.
      data_dir: where to; None for `mer_jax.data.source.default_data_dir()`.
      manual_dir: folder with the data as distributed, for sets that need one.
      processes: size of the pool that makes clips; None for one a core.
      options: fields of the config, for sets whose configs are named by the user.

    Returns:
      The directory of the finished dataset.

    Raises:
      UserError: a mistake in the arguments or in the data.
    """
    root = (default_data_dir() if data_dir is None else Path(data_dir)).absolute()
    manual = None if manual_dir is None else Path(manual_dir).absolute()
    builder = make_builder(name, root, options)
    directory = Path(builder.data_path)
    if manual is not None and not manual.is_dir():
        raise UserError(
            f"--manual_dir {manual}: folder not found. {builder.MANUAL_DOWNLOAD_INSTRUCTIONS or ''}".strip()
        )
    if is_finished(builder, directory, manual):
        return directory
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and manual is None:
        raise UserError(f"{name} needs --manual_dir. {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    relative = directory.relative_to(root)
    workshop = root / _WORKSHOP / relative.as_posix().replace("/", "+")
    with _lock(workshop.with_name(workshop.name + ".lock"), name):
        if is_finished(builder, directory, manual):  # another process built it while this one waited
            return directory
        shutil.rmtree(workshop, ignore_errors=True)  # left by a killed build: the lock says that nobody works there
        try:
            _build_in(make_builder(name, workshop / "new", options), manual, processes)
            _move_into_place(workshop / "new" / relative, directory, workshop / "old")
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
    return directory


def _build_in(builder: Any, manual_dir: Path | None, processes: int | None) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import absl.logging
    import tensorflow_datasets as tfds

    absl.logging.set_verbosity(absl.logging.ERROR)
    tfds.disable_progress_bar()
    if processes is not None:
        builder.processes = processes
    config = tfds.download.DownloadConfig(manual_dir=None if manual_dir is None else str(manual_dir))
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS reports in its own words, with the temporary path
        builder.download_and_prepare(download_config=config)


def _move_into_place(new: Path, final: Path, old: Path) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        os.rename(final, old)
    os.rename(new, final)
    files.sync_directory(final.parent)


@contextlib.contextmanager
def _lock(path: Path, name: str) -> Iterator[None]:
    """Holds a lock that the system releases when this process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name}: another process is building it; waiting", file=sys.stderr)
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


def ensure_built(
    name: str,
    data_dir: Path | str | None = None,
    manual_dir: Path | str | None = None,
    options: Sequence[str] = (),
) -> None:
    """Builds a dataset in a child process unless it is finished; this process never imports TensorFlow.

    Args:
      name: `dataset` or `dataset/config`.
      data_dir: where to.
      manual_dir: folder with the data as distributed.
      options: further arguments of the command line.

    Raises:
      UserError: the child's message.
      RuntimeError: the child failed otherwise (its traceback is on stderr).
    """
    command = [sys.executable, "-m", "tfds_builders.build", name, *options]
    if data_dir is not None:
        command += ["--data_dir", str(data_dir)]
    if manual_dir is not None:
        command += ["--manual_dir", str(manual_dir)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert child.stderr is not None
    message: list[bytes] = []
    forward = threading.Thread(target=_forward, args=(child.stderr, message), daemon=True)
    forward.start()
    try:
        code = child.wait()
    except BaseException:
        child.terminate()
        raise
    forward.join()
    child.stderr.close()
    if code == UserError.exit_code:
        raise UserError(b"".join(message).decode(errors="replace").strip().removeprefix("error: "))
    if code != 0:
        raise RuntimeError(f"building {name} failed with exit code {code}; see the messages above")


def _forward(stream: IO[bytes], message: list[bytes]) -> None:
    """Passes a child's stderr on, except for its last words, which `message` keeps."""
    for line in iter(stream.readline, b""):
        if message or line.startswith(b"error: "):
            message.append(line)
        else:
            sys.stderr.write(line.decode(errors="replace"))
            sys.stderr.flush()


def _description(name: str) -> str:
    """First paragraph of a dataset's README, title left out."""
    readme = _HERE / name / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    paragraphs = [p for p in text.split("\n\n") if p.strip() and not p.lstrip().startswith("#")]
    return " ".join(paragraphs[0].split()) if paragraphs else ""


def _catalogue() -> str:
    lines = ["datasets:"]
    for name in dataset_names():
        cls = builder_class(name)
        configs = [c.name for c in cls.BUILDER_CONFIGS] or (["<a name of yours>"] if cls.custom_config else [])
        lines.append(f"  {name}" + (f"  [{', '.join(f'{name}/{c}' for c in configs)}]" if configs else ""))
        description = _description(name)
        if description:
            lines.append(f"      {description if len(description) <= 200 else description[:197] + '...'}")
        needs = "needs --manual_dir" if cls.MANUAL_DOWNLOAD_INSTRUCTIONS else "needs no data"
        lines.append(f"      {needs}")
        if cls.custom_config:
            flags = ", ".join(f"--{f.name} {f.metadata.get('help', '')}" for f in _options(cls.custom_config))
            lines.append(f"      options: {flags}")
    return "\n".join(lines)


def _options(config: Any) -> list[dataclasses.Field[Any]]:
    inherited = {f.name for f in dataclasses.fields(config.__mro__[1])}
    return [f for f in dataclasses.fields(config) if f.name not in inherited]


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours: one message, without the usage text."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see python -m tfds_builders.build --help")


def _parser(custom: Any | None) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m tfds_builders.build",
        description="Builds a dataset of clips, unless it is finished. Killed at any moment it can be run again.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME[/CONFIG]", help="one of the datasets below")
    parser.add_argument("--manual_dir", type=Path, help="folder with the data as distributed")
    parser.add_argument("--data_dir", type=Path, help=f"where datasets are kept (default: {default_data_dir()})")
    parser.add_argument("--processes", type=int, help="processes that make clips (default: one a core)")
    for option in _options(custom) if custom else []:
        parser.add_argument(
            f"--{option.name}",
            dest=f"option:{option.name}",
            type=option.metadata.get("type", str),
            help=option.metadata.get("help"),
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0 done, 2 user's mistake)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _main(arguments)
    except MerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if told := files.storage_error(error):
            print(f"error: {told}", file=sys.stderr)
            return UserError.exit_code
        raise


def _main(arguments: Sequence[str]) -> int:
    if "-h" in arguments or "--help" in arguments:
        parser = _parser(None)
        parser.epilog = _catalogue()
        parser.print_help()
        return 0
    names = [a for a in arguments if not a.startswith("-") and a.split("/")[0] in dataset_names()]
    custom = builder_class(names[0].split("/")[0]).custom_config if names else None
    parser = _parser(custom)
    flags, unknown = parser.parse_known_args(arguments)
    for argument in unknown:
        known = [s for a in parser._actions for s in a.option_strings]
        near = difflib.get_close_matches(argument.split("=")[0], known, n=1)
        raise UserError(f"unknown argument {argument!r}; " + (f"did you mean {near[0]}?" if near else "see --help"))
    if flags.processes is not None and flags.processes < 1:
        raise UserError(f"--processes {flags.processes}: at least 1 is expected")
    options = {
        k.removeprefix("option:"): v for k, v in vars(flags).items() if k.startswith("option:") and v is not None
    }
    directory = build(flags.name, flags.data_dir, flags.manual_dir, flags.processes, options)
    report = files.read_json(directory / index_lib.REPORT)
    print(
        f"{flags.name}: {report['clips']} clips, {len(report['corrected'])} corrected, {len(report['skipped'])} skipped"
    )
    print(f"  in {directory}")
    for row in report["skipped"][:20]:
        print(f"  skipped {row['row']}: {row['reason']}")
    if len(report["skipped"]) > 20:
        print(f"  ... and {len(report['skipped']) - 20} more, see {directory / index_lib.REPORT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
