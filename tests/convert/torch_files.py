"""Writes files as `torch.save` does, without PyTorch: pickles that name torch's functions, and raw storages."""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile
from contextlib import contextmanager

import numpy as np

STORAGES = {
    "f8": "DoubleStorage", "f4": "FloatStorage", "f2": "HalfStorage", "i8": "LongStorage", "i4": "IntStorage",
    "u1": "ByteStorage", "b1": "BoolStorage",
}  # fmt: skip


def _module(name, **members):
    module = types.ModuleType(name)
    for key, member in members.items():
        member.__module__, member.__qualname__, member.__name__ = name, key, key
        setattr(module, key, member)
    return module


@contextmanager
def _torch():
    """Modules of the names that a checkpoint refers to, so that pickle can write them; gone afterwards."""
    rebuild = {"_rebuild_tensor_v2": lambda *a: None, "_rebuild_parameter": lambda *a: None}
    classes = {name: type(name, (), {}) for name in (*STORAGES.values(), "BFloat16Storage")}
    fakes = {"torch": _module("torch", **classes), "torch._utils": _module("torch._utils", **rebuild)}
    before = {name: sys.modules.get(name) for name in fakes}
    sys.modules.update(fakes)
    try:
        yield fakes["torch"], fakes["torch._utils"]
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class BFloat16(np.ndarray):
    """uint16 numbers to be written as bfloat16."""


class Parameter:
    """An array to be written as torch.nn.Parameter."""

    def __init__(self, array):
        self.array = array


class _Pickler(pickle.Pickler):
    """Arrays become tensors; `storages` collects their numbers, a base array once."""

    def __init__(self, file, torch, utils, legacy):
        super().__init__(file, protocol=2)
        self.torch, self.utils, self.legacy, self.storages, self._bases = torch, utils, legacy, {}, {}

    def persistent_id(self, obj):
        if not isinstance(obj, _Storage):
            return None
        base = obj.base
        key = self._bases.setdefault(id(base), str(len(self._bases)))
        self.storages[key] = base
        name = "BFloat16Storage" if isinstance(base, BFloat16) else STORAGES[base.dtype.str[1:]]
        pid = ("storage", getattr(self.torch, name), key, "cpu", base.size)
        return (*pid, None) if self.legacy else pid

    def reducer_override(self, obj):
        hooks = collections.OrderedDict()
        if isinstance(obj, Parameter):
            return self.utils._rebuild_parameter, (obj.array, True, hooks)
        if not isinstance(obj, np.ndarray):
            return NotImplemented
        base = obj
        while not isinstance(base, BFloat16) and isinstance(base.base, np.ndarray):
            base = base.base
        offset = obj.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        strides = tuple(s // obj.itemsize for s in obj.strides)
        arguments = (_Storage(base), offset // obj.itemsize, obj.shape, strides, False, hooks)
        return self.utils._rebuild_tensor_v2, arguments


class _Storage:
    def __init__(self, base):
        self.base = base


def save(path, tree, legacy=False, prefix="archive"):
    """Writes a tree of containers and arrays (views share their base's storage), in zip or legacy format."""
    with _torch() as (torch, utils), open(path, "wb") as file:
        body = io.BytesIO()
        pickler = _Pickler(body, torch, utils, legacy)
        pickler.dump(tree)
        raw = {key: np.ascontiguousarray(base) for key, base in pickler.storages.items()}
        if legacy:
            for header in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}):
                pickle.dump(header, file, protocol=2)
            file.write(body.getvalue())
            pickle.dump(sorted(raw), file, protocol=2)
            for key in sorted(raw):
                file.write(struct.pack("<q", raw[key].size) + raw[key].tobytes())
            return
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(f"{prefix}/data.pkl", body.getvalue())
            archive.writestr(f"{prefix}/byteorder", "little")
            for key, array in raw.items():
                archive.writestr(f"{prefix}/data/{key}", array.tobytes())
            archive.writestr(f"{prefix}/version", "3\n")
