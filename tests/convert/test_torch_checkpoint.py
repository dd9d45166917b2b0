"""Reading PyTorch checkpoints: the right numbers out of both formats, and nothing ever run."""

import collections
import pickle
import zipfile

import numpy as np
import pytest

from mer_jax.convert import torch_checkpoint
from mer_jax.errors import UserError
from tests.convert import torch_files

FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


@pytest.fixture
def tensors():
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    wide = np.array([1.5, -2.25, 3e38], np.float32)
    return collections.OrderedDict(
        base=base,
        rows=base[1:3],  # a view: one storage with `base`, offset 6
        turned=base.T,
        strided=base[:, ::2],
        parameter=torch_files.Parameter(np.ones((2, 3))),
        half=np.array([0.5, 65504], np.float16),
        brain=(wide.view(np.uint32) >> 16).astype(np.uint16).view(torch_files.BFloat16),
        count=np.array(7),
        mask=np.array([True, False]),
        nothing=np.zeros((0, 3), np.float32),
    )


@FORMATS
def test_numbers_types_and_views(tmp_path, tensors, legacy):
    torch_files.save(tmp_path / "x.pth", tensors, legacy)
    found = torch_checkpoint.state_dict(tmp_path / "x.pth")
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        if name == "brain":
            np.testing.assert_allclose(found[name], [1.5, -2.25, 3e38], rtol=2**-7)
            assert found[name].dtype == np.float32
            continue
        expected = tensor.array if name == "parameter" else tensor
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


@FORMATS
@pytest.mark.parametrize("place", ["", "state_dict", "model"])
def test_where_the_weights_are(tmp_path, legacy, place):
    """A checkpoint of a training loop holds more than weights; DataParallel puts a prefix before all names."""
    weights = {"module.a": np.ones(2), "module.b": np.zeros(3)}
    around = {place: weights, "epoch": 3, "best": [0.5, None], "optimizer": {"state": {}, "lr": 0.1}}
    tree = around if place else weights
    torch_files.save(tmp_path / "x.pth", tree, legacy)
    found = torch_checkpoint.state_dict(tmp_path / "x.pth")
    assert {k: v.tolist() for k, v in found.items()} == {"a": [1, 1], "b": [0, 0, 0]}
    whole = torch_checkpoint.read(tmp_path / "x.pth")
    assert not place or (whole["epoch"], whole["best"]) == (3, [0.5, None])


def write(path, pickled, legacy):
    """A file of the given format around any pickle of the object."""
    if legacy:
        headers = b"".join(pickle.dumps(h, 2) for h in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        path.write_bytes(headers + pickled + pickle.dumps([], 2))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickled)


class Evil:
    """Unpickled by pickle itself, it would make a folder."""

    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


@FORMATS
def test_nothing_is_run(tmp_path, legacy):
    import functools
    import os

    target = tmp_path / "was_run"
    for number, (call, named) in enumerate(
        [
            ((os.mkdir, (str(target),)), "mkdir"),
            ((eval, (f"__import__('os').mkdir({str(target)!r})",)), "eval"),
            ((getattr, ("text", "upper")), "getattr"),
            ((functools.partial, (os.mkdir, str(target))), "functools.partial"),
            ((np.zeros, (3,)), "numpy"),
        ]
    ):
        path = tmp_path / f"{number}.pth"
        body = pickle.dumps({"state_dict": {"a": 1}, "extra": [Evil(call)]}, number % 5)
        write(path, body, legacy)
        with pytest.raises(UserError, match=named) as error:
            torch_checkpoint.read(path)
        assert str(path) in str(error.value)
        assert not target.exists()
    pickle.loads(pickle.dumps(Evil((os.mkdir, (str(target),)))))  # the test could have failed
    assert target.exists()


def test_what_a_file_names_cannot_be_changed(tmp_path):
    """Pickle's BUILD sets attributes; on a function or type of the list that would change later loads."""
    for named in (b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n"):
        for state in (b"}S'dtype'\nS'O'\ns", b"(N}S'_function'\nNst", b"(N}S'__code__'\nNst"):
            write(tmp_path / "x.pth", named + state + b"b.", legacy=False)
            with pytest.raises(UserError, match="no whole PyTorch checkpoint"):
                torch_checkpoint.read(tmp_path / "x.pth")
    torch_files.save(tmp_path / "y.pth", {"a": np.ones(2, np.float32)})
    assert torch_checkpoint.state_dict(tmp_path / "y.pth")["a"].tolist() == [1, 1]


def test_options_beside_the_weights_are_dropped(tmp_path):
    """argparse.Namespace and numpy scalars are common in checkpoints; they become nothing."""
    import argparse

    body = pickle.dumps({"model": {}, "args": argparse.Namespace(lr=0.1), "best": np.float64(0.5)}, 2)
    write(tmp_path / "x.pth", body, legacy=False)
    found = torch_checkpoint.read(tmp_path / "x.pth")
    assert set(found) == {"model", "args", "best"}
    assert not isinstance(found["args"], argparse.Namespace)
    with pytest.raises(UserError, match="a state dict"):
        torch_checkpoint.state_dict(tmp_path / "x.pth")


TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI%d\ntQ%s(%st(%st"
    b"I00\nccollections\nOrderedDict\n(tRtR."
)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (b"I0\n", b"I5\n", b"I1\n"),  # longer than its storage
        (b"I3\n", b"I2\n", b"I1\n"),  # begins too late
        (b"I-1\n", b"I2\n", b"I1\n"),  # begins before it
        (b"I0\n", b"I2\n", b"I-1\n"),
        (b"I0\n", b"L1000000000000L\n", b"I0\n"),  # one number, repeated to fill the memory
        (b"I0\n", b"I2\n", b"I1\nI1\n"),
    ],
)
def test_tensors_stay_inside_their_storage(tmp_path, offset, size, stride):
    def file(*arguments):
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr("archive/data.pkl", TENSOR % (4, *arguments))
            archive.writestr("archive/data/0", np.arange(4, dtype=np.float32).tobytes())

    file(b"I1\n", b"I3\n", b"I1\n")
    np.testing.assert_array_equal(torch_checkpoint.read(tmp_path / "x.pth"), [1, 2, 3])
    file(offset, size, stride)
    with pytest.raises(UserError, match="a tensor of size"):
        torch_checkpoint.read(tmp_path / "x.pth")


@FORMATS
def test_broken_files(tmp_path, tensors, legacy):
    torch_files.save(tmp_path / "x.pth", tensors, legacy)
    whole = (tmp_path / "x.pth").read_bytes()
    for length in (0, 1, 10, 60, len(whole) // 2, len(whole) - 20):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(UserError, match="no whole PyTorch checkpoint"):
            torch_checkpoint.state_dict(tmp_path / "cut.pth")
    (tmp_path / "text.pth").write_text("<!DOCTYPE html>")
    with pytest.raises(UserError, match=r"text\.pth: is no whole PyTorch checkpoint"):
        torch_checkpoint.read(tmp_path / "text.pth")
    with pytest.raises(UserError, match=r"absent\.pth: cannot be read"):
        torch_checkpoint.read(tmp_path / "absent.pth")
    with zipfile.ZipFile(tmp_path / "deflated.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    with pytest.raises(UserError, match="compressed"):
        torch_checkpoint.read(tmp_path / "deflated.pth")
