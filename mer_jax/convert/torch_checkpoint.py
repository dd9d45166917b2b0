"""Reads PyTorch checkpoints without PyTorch, and without running what they hold.

A checkpoint is a pickle, and unpickling calls whatever functions the file names. Here a name that is not in a short
list is refused, and the names in the list stand for inert objects of this file: nothing is imported, and nothing but
numpy arrays, numbers, text and plain containers can come out. Two formats are read:

  zip (PyTorch 1.6 and later)   <folder>/data.pkl, <folder>/data/<storage>, <folder>/byteorder
  legacy                        pickles in a row: magic number, version, system, object, names of storages; then these

Source: the serialization notes of PyTorch's documentation, and files seen from outside.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

import numpy as np

from mer_jax.errors import UserError

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of the legacy format
_STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bfloat16",
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?",
}  # fmt: skip
_TYPES = (
    "float64", "double", "float32", "float", "float16", "half", "bfloat16", "int64", "long", "int32", "int", "int16",
    "short", "int8", "uint8", "bool",
)  # fmt: skip
_PLACES = ("state_dict", "model_state_dict", "model", "net", "weights")  # where training loops put the weights
_Order = Literal["<", ">"]  # little endian, big endian
_BROKEN = (
    pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, KeyError, ValueError, TypeError, IndexError,
    AttributeError, ImportError, OverflowError, NotImplementedError, RuntimeError, MemoryError,
)  # fmt: skip


def read(path: Path | str) -> Any:
    """What `torch.save` wrote: nested dicts, lists, numbers, text and numpy arrays.

    Args:
      path: a .pth or .pt file in zip or legacy format.

    Raises:
      UserError: no such file, no checkpoint, a broken one, or one that holds other objects than tensors and plain
        containers (the first one is named; nothing of it is run).
    """
    path = Path(path).expanduser()
    try:
        with open(path, "rb") as file:
            return _read_zip(file) if file.read(2) == b"PK" else _read_legacy(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); expected a PyTorch checkpoint") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except _BROKEN as error:
        raise UserError(
            f"{path}: is no whole PyTorch checkpoint ({type(error).__name__}: {error}); expected a file of torch.save"
        ) from None


def state_dict(path: Path | str) -> dict[str, np.ndarray]:
    """The weights of a checkpoint, by name; a prefix `module.` of all names (of DataParallel) is cut off.

    The file may be a state dict, or a dict with one under a usual name (`state_dict`, `model` ...).

    Raises:
      UserError: see `read`; or the file holds no state dict.
    """
    tree = read(path)
    found = _tensors(tree)
    if found is None and isinstance(tree, Mapping):
        inside = {name: _tensors(tree[name]) for name in _PLACES if name in tree}
        found = next((tensors for tensors in inside.values() if tensors), None)
    if not found:
        holds = f"a dict with {sorted(map(str, tree))[:8]}" if isinstance(tree, Mapping) else type(tree).__name__
        raise UserError(f"{path}: found {holds}; expected a state dict (name -> tensor), alone or under {_PLACES}")
    if all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return found


def _tensors(tree: Any) -> dict[str, np.ndarray] | None:
    if not isinstance(tree, Mapping) or not tree or not all(isinstance(v, np.ndarray) for v in tree.values()):
        return None
    return {str(name): tensor for name, tensor in tree.items()}


# -- what a file may name ----------------------------------------------------------------------------------------------


class _Fixed:
    """An object that a file can name and not change."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("the file changes what it names")


class _Type(_Fixed):
    """A storage class or dtype of the file; `dtype` is the numpy name of its elements."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


class _Storage(_Fixed):
    """A flat array of the file."""

    __slots__ = ("data",)

    def __init__(self, data: np.ndarray) -> None:
        self.data = data


class _Function(_Fixed):
    """A function that a file may call."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


class _Ignored:
    """What is of no use here, as a class (pickles make instances of classes); it holds and does nothing."""

    __slots__ = ()

    def __new__(cls, *_: Any) -> _Ignored:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Ignores the state."""


class _Mapping(dict[Any, Any]):
    """A dict of the file; the attributes that PyTorch hangs on state dicts are dropped."""

    def __setstate__(self, state: Any) -> None:
        """Ignores the state."""


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """A tensor, copied out of its storage; refuses one that reaches beyond it or repeats it at length."""
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    if len(size) != len(stride) or not all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride)):
        raise pickle.UnpicklingError(f"a tensor of size {size}, stride {stride}, offset {offset}")
    data, count = storage.data, math.prod(size)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if count and (last >= len(data) or count > len(data)):
        raise pickle.UnpicklingError(f"a tensor of size {tuple(size)} in a storage of {len(data)} numbers")
    if not count:
        return np.zeros(size, data.dtype)
    return np.lib.stride_tricks.as_strided(data[offset:], size, [s * data.itemsize for s in stride]).copy()


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Function(lambda items=(): _Mapping(items)),
    ("collections", "defaultdict"): _Function(lambda *_: _Mapping()),
    ("torch._utils", "_rebuild_tensor"): _Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(lambda data, *_: data),
    ("torch._utils", "_rebuild_parameter_with_state"): _Function(lambda data, *_: data),
    ("torch", "Size"): _Function(lambda sizes=(): tuple(sizes)),
    ("builtins", "set"): _Function(lambda items=(): list(items)),
    ("__builtin__", "set"): _Function(lambda items=(): list(items)),
    # Options and scores that lie beside the weights.
    ("torch", "device"): _Ignored,
    ("argparse", "Namespace"): _Ignored,
    ("numpy.core.multiarray", "scalar"): _Ignored,
    ("numpy._core.multiarray", "scalar"): _Ignored,
    ("numpy", "dtype"): _Ignored,
    ("_codecs", "encode"): _Ignored,
}
_ALLOWED |= {(m, name): _Type(dtype) for name, dtype in _STORAGES.items() for m in ("torch", "torch.cuda")}
_ALLOWED |= {("torch", name): _Ignored for name in _TYPES}


class _Unpickler(pickle.Unpickler):
    """Knows the names of `_ALLOWED` and imports nothing; `storage` finds what a persistent id refers to."""

    def __init__(self, file: IO[bytes], storage: Callable[..., Any] | None = None, tensors: bool = True) -> None:
        super().__init__(file, encoding="latin1")  # some of these files were written by Python 2
        self._storage, self._tensors = storage, tensors

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name of the file; raises UserError for any name that is not allowed."""
        if (module, name) not in _ALLOWED:
            raise UserError(
                f"found an object of {module}.{name}; expected tensors, numbers, text and plain containers. Nothing "
                "was run. Where the file is your own, save the state dict alone: torch.save(model.state_dict(), path)"
            )
        if module == "torch._utils" and not self._tensors:
            return _Ignored
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """A storage, from ("storage", type, name, device, numbers[, view])."""
        known = isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], _Type)
        if self._storage is None or not known:
            raise pickle.UnpicklingError("a reference to something else than a storage")
        return self._storage(pid[1].dtype, str(pid[2]), pid[5] if len(pid) > 5 else None)


# -- formats -----------------------------------------------------------------------------------------------------------


def _array(raw: bytes, dtype: str, order: _Order) -> np.ndarray:
    """Numbers from bytes in `order` (< or >); bfloat16 becomes float32, which holds it exactly."""
    if dtype == "bfloat16":
        return (np.frombuffer(raw, f"{order}u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, np.dtype(dtype).newbyteorder(order)).astype(dtype)


def _read_zip(file: IO[bytes]) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("data.pkl") and name.count("/") <= 1]
        if len(pickles) != 1:
            raise pickle.UnpicklingError("a zip file without data.pkl")
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise pickle.UnpicklingError("compressed entries, which torch.save never writes")
        folder = pickles[0].removesuffix("data.pkl")
        big = f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") == b"big"
        known: dict[str, _Storage] = {}

        def storage(dtype: str, name: str, view: Any) -> _Storage:
            if name not in known:
                known[name] = _Storage(_array(archive.read(f"{folder}data/{name}"), dtype, ">" if big else "<"))
            return known[name]

        return _Unpickler(io.BytesIO(archive.read(pickles[0])), storage).load()


def _read_legacy(file: IO[bytes]) -> Any:
    """The storages follow the object, which is read twice: first without tensors, to learn the storages' types."""
    file.seek(0)
    try:
        header = [_Unpickler(file).load() for _ in range(2)]
    except (*_BROKEN, UserError):
        header = []
    if header != [_MAGIC, _VERSION]:
        raise pickle.UnpicklingError("neither a zip file nor the magic number of older versions")
    order: _Order = "<" if _Unpickler(file).load().get("little_endian", True) else ">"
    begin = file.tell()
    types: dict[str, str] = {}
    _Unpickler(file, lambda dtype, name, view: types.setdefault(name, dtype), tensors=False).load()
    arrays = dict(_legacy_storages(file, _Unpickler(file).load(), types, order))

    def storage(dtype: str, name: str, view: Any) -> _Storage:
        if view is None:
            return _Storage(arrays[name])
        _, offset, numbers = view
        return _Storage(arrays[name][offset : offset + numbers])

    file.seek(begin)
    return _Unpickler(file, storage).load()


def _legacy_storages(
    file: IO[bytes], names: Iterable[Any], types: Mapping[str, str], order: _Order
) -> Iterable[tuple[str, np.ndarray]]:
    """Name and numbers of each storage: int64 count, then the numbers."""
    for name in map(str, names):
        (count,) = struct.unpack(f"{order}q", file.read(8))
        width = 2 if types[name] == "bfloat16" else np.dtype(types[name]).itemsize
        raw = file.read(count * width) if count >= 0 else b""
        if len(raw) != count * width:
            raise EOFError(f"storage {name} is cut off")
        yield name, _array(raw, types[name], order)
