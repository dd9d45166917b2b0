"""FDP's released names: all of them go to their place, and the columns of the first linear layer change order."""

import numpy as np
import pytest

from configs import fdp as config
from mer_jax import convert
from mer_jax.convert import fdp
from mer_jax.errors import UserError
from mer_jax.settings import Settings

SMALL = {
    "data.size": 32, "data.frames": 4, "model.depths": (1, 2), "model.widths": (16, 24), "model.stem": 8,
    "model.map_size": 32, "model.segnet": (4, 6), "model.segnet_convolutions": (1, 2), "model.hidden": 5,
    "model.form": "direct", "data.align": "none",
}  # fmt: skip


def settings_of(fields):
    found = config.get_config("released")
    for field, value in fields.items():
        config.common._set(found, field, value, {})
    return Settings(found.to_dict())


def released(settings, classes=5):
    """Names and shapes of the authors' state dict, written down from its pattern."""
    model, shapes = settings.model, {}

    def bn(name, channels):
        shapes.update({f"{name}.{k}": (channels,) for k in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    stem, c = (1, model.stem, model.stem // 2, model.stem, model.stem), model.stem
    for i in range(4):
        shapes[f"frame_rep.stem.{i}.conv.weight"] = (stem[i + 1], stem[i], 3, 3)
        bn(f"frame_rep.stem.{i}.norm", stem[i + 1])
    widths = [w for w, depth in zip(model.widths, model.depths, strict=True) for _ in range(depth)]
    for i, w in enumerate(widths):
        name, h = f"frame_rep.features.{i}", max(32, (3 * w + 16) // 32 * 32)
        if w != c:
            shapes[f"{name}.patch_embed.conv.weight"] = (w, c, 1, 1)
            bn(f"{name}.patch_embed.norm", w)
        c = w
        shapes[f"{name}.mhca.group_conv3x3.weight"] = (w, w, 3, 3)
        bn(f"{name}.norm", w)
        shapes |= {f"{name}.mlp.conv1.weight": (h, w, 1, 1), f"{name}.mlp.conv1.bias": (h,)}
        shapes |= {f"{name}.mlp.conv2.weight": (w, h, 1, 1), f"{name}.mlp.conv2.bias": (w,)}
    bn("frame_rep.norm", c)
    shapes |= {
        "frame_rep.proj_head.0.weight": (model.map_size**2, c),
        "frame_rep.proj_head.0.bias": (model.map_size**2,),
    }
    t, side = settings.data.frames, model.map_size // 3
    shapes |= {"mer.conv3d.weight": (8, 1, 3, 3, t), "mer.conv3d.bias": (8,)}
    shapes |= {"mer.fc1.weight": (model.hidden, 8 * side**2), "mer.fc1.bias": (model.hidden,)}
    shapes |= {"mer.fc2.weight": (classes, model.hidden), "mer.fc2.bias": (classes,)}
    c = 8
    down, up = [], []
    for stage, (w, n) in enumerate(zip(model.segnet, model.segnet_convolutions, strict=True), start=1):
        for i in range(1, n + 1):
            down.append((f"{stage}{i}", c, w))
            c = w
    for stage in range(len(model.segnet), 0, -1):
        w = model.segnet[stage - 1]
        for i in range(model.segnet_convolutions[stage - 1], 0, -1):
            out = w if i > 1 else (model.segnet[stage - 2] if stage > 1 else 1)
            up.append((f"{stage}{i}d", w, out))
    for name, a, b in down + up:
        shapes |= {f"dyimg_net.conv{name}.weight": (b, a, 3, 3), f"dyimg_net.conv{name}.bias": (b,)}
        if name != "11d":
            bn(f"dyimg_net.bn{name}", b)
    return shapes


def test_the_full_network_has_the_released_names():
    settings = settings_of({})
    shapes = released(settings)
    parameters = {k: s for k, s in shapes.items() if not k.endswith(("running_mean", "running_var", "tracked"))}
    assert sum(int(np.prod(s)) for s in parameters.values()) == 85_304_206
    assert len(shapes) == 438
    assert set(fdp.entries(settings)) == {k for k in shapes if not k.endswith("tracked")}


@pytest.fixture(scope="module")
def small():
    settings = settings_of(SMALL)
    rng = np.random.default_rng(0)
    tensors = {k: np.asarray(rng.normal(size=s), np.float32) for k, s in released(settings, 3).items()}
    return settings, tensors


def test_every_kind_of_tensor_arrives(small):
    settings, tensors = small
    found = fdp.variables(tensors, settings)
    params, statistics = found["params"], found["batch_stats"]
    block = params["encoder"]["stage_2_local_0"]
    name = "frame_rep.features.1"
    assert block["patch_embed"]["conv"]["kernel"][3, 7] == tensors[f"{name}.patch_embed.conv.weight"][7, 3, 0, 0]
    assert block["mhca"]["conv"]["kernel"][2, 1, 5, 9] == tensors[f"{name}.mhca.group_conv3x3.weight"][9, 5, 2, 1]
    assert block["mlp"]["conv1"]["kernel"][4, 8] == tensors[f"{name}.mlp.conv1.weight"][8, 4, 0, 0]
    mean = statistics["encoder"]["stage_2_local_1"]["norm"]["mean"]
    np.testing.assert_array_equal(mean, tensors["frame_rep.features.2.norm.running_mean"])
    assert params["encoder"]["head"]["kernel"][6, 77] == tensors["frame_rep.proj_head.0.weight"][77, 6]
    assert params["mix"]["kernel"][2, 0, 3, 6] == tensors["mer.conv3d.weight"][6, 0, 2, 0, 3]
    assert params["segnet"]["conv21d"]["kernel"][1, 2, 3, 0] == tensors["dyimg_net.conv21d.weight"][0, 3, 1, 2]
    maps = np.random.default_rng(1).normal(size=(10, 10, 8))  # ours: channels last
    ours = maps.reshape(-1) @ params["hidden"]["kernel"]
    np.testing.assert_allclose(ours, tensors["mer.fc1.weight"] @ maps.transpose(2, 0, 1).reshape(-1), rtol=1e-4)


def test_other_networks_are_refused(small):
    settings, tensors = small
    described = settings.replace(model=settings.model.replace(attention=True))
    with pytest.raises(UserError, match=r"model\.attention"):
        fdp.variables(tensors, described)
    broken = {k: v for k, v in tensors.items() if k != "frame_rep.norm.weight"} | {"mer.fc1.weight": np.zeros((5, 9))}
    with pytest.raises(UserError, match=r"missing: frame_rep\.norm\.weight; 1 misshapen: mer\.fc1\.weight \(5, 9\)"):
        fdp.variables(broken, settings)


def test_it_is_known_by_name():
    assert convert.MODULES["fdp"] == "mer_jax.convert.fdp"
