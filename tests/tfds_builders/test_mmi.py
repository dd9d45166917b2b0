"""MMI from a tiny tree of sessions."""

import pytest

from mer_jax.data import frames as frames_lib
from mer_jax.errors import UserError
from tests.tfds_builders import trees


def session(root, number, clip, view="0", emotion=None, units=None, shape=(48, 64)):
    folder = root / "Sessions" / str(number)
    trees.write_video(folder / f"{clip}.avi", range(6), 24.0, *shape)
    (folder / "session.xml").write_text(f'<session><track view="{view}" filename="{clip}.avi"/></session>')
    if emotion is not None:
        (folder / f"{clip}.xml").write_text(f'<clip><Metatag Name="Emotion" Value="{emotion}"/></clip>')
    if units is not None:
        text = "".join(
            f'<ActionUnit Number="{n}"><Marker Type="onset" Frame="2"/><Marker Type="apex" Frame="{a}"/>'
            f'<Marker Type="offset" Frame="6"/></ActionUnit>'
            for n, a in units
        )
        (folder / f"{clip}-oao_aucs.xml").write_text(f"<ActionUnitCoding>{text}</ActionUnitCoding>")
    return folder


def test_sessions(tmp_path):
    data = tmp_path / "data"
    session(data, 1, "S001-001", emotion=4)
    session(data, 2, "S001-002", view="2", emotion=1)
    session(data, 3, "S002-001", emotion=9)
    session(data, 10, "S003-001", units=[("12", 4), ("L25", 5)], shape=(64, 48))
    session(data, 11, "S003-002")
    (session(data, 12, "S003-003", emotion=1) / "S003-003.avi").write_bytes(b"no video")
    clips, skipped, report = trees.run_builder("mmi", "front", data, tmp_path / "out")
    assert [(c, r.emotion, r.onset, r.apex, r.offset, r.fps) for c, r in clips.items()] == [
        ("mmi/S001/S001-001", "happy", 0, -1, 5, 24.0),
        ("mmi/S003/S003-001", "", 1, 4, 5, 24.0),
    ]
    assert trees.units_of(clips["mmi/S003/S003-001"]) == [12, 25]
    # A recording that lies on its side is turned upright.
    assert {frames_lib.decode(r.frames[0]).shape for r in clips.values()} == {(48, 64, 3)}
    reasons = {s.row: s.reason for s in skipped}
    assert "dual view" in reasons["session 2"]
    assert "emotion code 9" in reasons["session 3"]
    assert "neither an emotion nor action units" in reasons["session 11"]
    assert "not a video that can be opened" in reasons["mmi/S003/S003-003"]
    assert report.rows == 6


def test_broken_xml(tmp_path):
    folder = session(tmp_path / "data", 1, "S001-001", emotion=4)
    (folder / "S001-001.xml").write_text("<clip><Metatag")
    with pytest.raises(UserError, match=r"S001-001\.xml: cannot be read as XML"):
        trees.run_builder("mmi", "front", tmp_path / "data", tmp_path / "out")
