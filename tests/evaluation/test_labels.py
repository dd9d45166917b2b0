from __future__ import annotations

import numpy as np
import pytest

from mer_jax.errors import UserError
from mer_jax.evaluation import labels, objective
from mer_jax.evaluation.datasets import DATASETS, builder_of, canonical, person_of
from mer_jax.evaluation.label_set import LabelSet

CASME2_2014 = {
    "others": 99, "disgust": 63, "happiness": 32, "repression": 27, "surprise": 25, "sadness": 7, "fear": 2,
}  # fmt: skip
SAMM = {
    "Anger": 57, "Happiness": 26, "Other": 26, "Surprise": 15, "Contempt": 12, "Disgust": 9, "Fear": 8, "Sadness": 6,
}  # fmt: skip
MEGC_WORDS = ("disgust", "repression", "happiness", "surprise")
SMIC = {"negative": 70, "positive": 51, "surprise": 43}


def clips(dataset, counts, subjects, **fields):
    """Rows with the given number of clips of each emotion, dealt to the subjects in turn."""
    words = [w for w, n in counts.items() for _ in range(n)]
    return [
        {"dataset": dataset, "emotion": w, "subject": subjects[k % len(subjects)], **fields}
        for k, w in enumerate(words)
    ]


def casme2_rows(sheet=2014, subjects=tuple(f"{k:02d}" for k in range(1, 27))):
    """CASME II as its sheets count it, with the five clips that lists treat by name."""
    rows = clips("casme2", CASME2_2014, subjects)
    taken = set()

    def place(subject, clip, word):
        k = next(i for i, r in enumerate(rows) if r["emotion"] == word and i not in taken)
        taken.add(k)
        rows[k] |= {"subject": subject, "clip": f"casme2/{subject}/{clip}"}
        return k

    place("04", "EP12_01f", "disgust")
    place("05", "EP09_05f", "disgust")
    for clip in ("EP07_01", "EP07_04f", "EP10_03"):
        k = place("24", clip, "sadness")
        if sheet == 2019:
            rows[k]["emotion"] = "surprise"
    return rows


def samm_rows():
    """SAMM: 29 subjects, 025 with clips of Other only."""
    subjects = tuple(f"{k:03d}" for k in range(6, 35) if k != 25)
    rows = clips("samm", SAMM, subjects)
    other = [r for r in rows if r["emotion"] == "Other"]
    other[0]["subject"] = "025"
    return rows


def smic_rows(dataset="smic_hs"):
    return clips(dataset, SMIC, tuple(f"s{k}" for k in range(1, 17)), cohort="smic")


def spread(rows, words, subjects):
    """Deals the clips with these words to exactly these subjects and all others to one more."""
    inside = [r for r in rows if r["emotion"] in words and "clip" not in r]
    for k, row in enumerate(inside):
        row["subject"] = subjects[k % len(subjects)]
    for row in rows:
        if row["emotion"] not in words and "clip" not in row:
            row["subject"] = "10"
    return rows


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("casme2_3_mmnet", (99, 32, 25)),
        ("casme2_4", (32, 63, 27, 25)),
        ("casme2_4_akmnet", (72, 32, 25, 126)),
        ("casme2_5", (32, 63, 27, 25, 99)),
        ("casme2_5_skdtstsan", (32, 61, 27, 25, 99)),
        ("casme2_7", (32, 63, 27, 25, 99, 7, 2)),
    ],
)
def test_casme2(build_table, name, counts):
    found = labels.apply(name, build_table(casme2_rows()))
    assert found.counts == {"casme2": counts}
    assert found.differences == ()
    assert list(found.matches) == ["casme2"]
    assert len(found.exclusions) == 255 - sum(counts)
    assert found.labels.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(found.labels[found.used]), counts)
    assert (found.labels == -1).sum() == len(found.exclusions)


def test_sets_that_differ_have_names_that_differ():
    four = {name: labels.get(name) for name in ("casme2_4", "casme2_4_akmnet", "mmew_4_mmnet", "mmew_4_valence")}
    totals = {name: s.expected[next(iter(s.maps))][0].total for name, s in four.items()}
    assert totals == {"casme2_4": 147, "casme2_4_akmnet": 255, "mmew_4_mmnet": 263, "mmew_4_valence": 300}
    akmnet = labels.get("casme2_4_akmnet").expected["casme2"][0].clips
    assert akmnet == {"positive": 32, "negative": 72, "surprise": 25, "others": 126}


def test_the_sheet_version_is_recognised_by_its_counts(build_table):
    old = labels.apply("casme2_5", build_table(casme2_rows(2014)))
    new = labels.apply("casme2_5", build_table(casme2_rows(2019)))
    assert old.matches == {"casme2": "2014 sheet"}
    assert new.matches == {"casme2": "2019 sheet"}
    assert (old.used.sum(), new.used.sum()) == (246, 249)


def test_the_composite_set_is_442_clips_of_68_subjects(build_table):
    for sheet in (2014, 2019):
        rows = spread(casme2_rows(sheet), MEGC_WORDS, [f"{k:02d}" for k in range(1, 27) if k not in (10, 18)])
        table = build_table(rows + samm_rows() + smic_rows())
        found = labels.apply("megc2019", table)
        assert found.counts == {"casme2": (88, 32, 25), "samm": (92, 26, 15), "smic_hs": (70, 51, 43)}
        np.testing.assert_array_equal(np.bincount(found.labels[found.used]), (250, 109, 83))
        assert found.differences == ()
        assert len(set(table.person[found.used])) == 68
        assert found.used.sum() == 442
        named = {e.clip.split("/")[-1]: e.reason for e in found.exclusions if "EP" in e.clip}
        assert named["EP12_01f"] == "no apex in the sheet; not on the list"
        assert named["EP09_05f"].startswith("onset equals apex")
        assert set(named) == {"EP12_01f", "EP09_05f", "EP07_01", "EP07_04f", "EP10_03"}
        assert ("moved to surprise" in named["EP07_01"]) == (sheet == 2019)


def test_a_list_of_the_composite_may_name_the_classes(build_table):
    counts = {"casme2": (88, 32, 25, 24), "samm": (92, 26, 15, 28), "smic": (70, 51, 43, 16)}
    rows = []
    for dataset, (*clips_of, persons) in counts.items():
        words = np.repeat(("Negative", "positive", "surprise"), clips_of)
        rows += [{"dataset": dataset, "subject": str(k % persons), "emotion": w} for k, w in enumerate(words)]
    found = labels.apply("megc2019", build_table(rows))
    assert found.classes == ("negative", "positive", "surprise")
    assert found.counts == {"casme2": (88, 32, 25), "samm": (92, 26, 15), "smic_hs": (70, 51, 43)}
    assert found.differences == ()


def test_subjects_are_compared_by_number(build_table):
    for subject in ("4", "04", "sub04"):
        table = build_table(
            [
                {"subject": subject, "clip": f"casme2/{subject}/EP12_01f", "emotion": "disgust"},
                {"subject": "05", "clip": "casme2/05/EP12_01f", "emotion": "disgust"},
            ]
        )
        assert labels.apply("megc2019", table).labels.tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("samm_3_megc2019", (92, 26, 15)),
        ("samm_4_akmnet", (92, 26, 15, 26)),
        ("samm_5", (57, 26, 26, 15, 12)),
        ("samm_7", (57, 26, 15, 12, 9, 8, 6)),
        ("samm_8", (57, 26, 26, 15, 12, 9, 8, 6)),
    ],
)
def test_samm(build_table, name, counts):
    found = labels.apply(name, build_table(samm_rows()))
    assert found.counts == {"samm": counts}
    clips_differ = [d for d in found.differences if "instead of" in d.split(";")[0]]
    assert clips_differ == []


def test_differences_are_told_with_numbers(build_table):
    rows = casme2_rows()
    rows[0]["emotion"] = "fear"  # one of the 99 others
    found = labels.apply("casme2_5", build_table(rows))
    assert found.differences == ("casme2: 245 clips at hand, 246 published (2014 sheet): others 98 instead of 99",)
    few = labels.apply("casme2_5", build_table(clips("casme2", CASME2_2014, ("01", "02"))))
    assert few.differences == ("casme2: 246 clips at hand, 246 published (2014 sheet); 2 persons instead of 26",)
    part = labels.apply("megc2019", build_table(smic_rows()))
    assert [d.split(":")[0] for d in part.differences] == ["casme2", "samm"]
    assert part.matches == {"smic_hs": "HS"}
    hearsay = labels.apply("mmew_7", build_table(clips("mmew", {"happiness": 3, "others": 2}, ("S01",))))
    assert "(300-clip sheet, unverified)" in hearsay.differences[0]


def test_smic_in_any_spelling_of_the_builder(build_table):
    for dataset in ("smic", "smic_hs"):
        assert labels.apply("smic_3", build_table(smic_rows(dataset))).counts == {"smic_hs": (70, 51, 43)}
    with pytest.raises(UserError, match="no clip is left of the 164 of smic_vis"):
        labels.apply("smic_3", build_table(smic_rows("smic_vis")))


def test_casme3_words(build_table):
    counts = {
        "disgust": 250,
        "surprise": 187,
        "others": 158,
        "Others": 3,
        "fear": 86,
        "anger": 64,
        "sad": 57,
        "happy": 55,
    }
    table = build_table(clips("casme3", counts, tuple(f"spNO.{k}" for k in range(94))))
    assert labels.apply("casme3_3", table).counts == {"casme3": (457, 55, 187)}
    assert labels.apply("casme3_4", table).counts == {"casme3": (457, 55, 187, 161)}
    seven = labels.apply("casme3_7", table)
    assert seven.counts == {"casme3": (250, 187, 161, 86, 64, 57, 55)}
    assert seven.matches == {"casme3": "part A, v2"}


def test_casme_maps_are_consistent(build_table):
    counts = {
        "tense": 69,
        "repression": 38,
        "disgust": 44,
        "sadness": 6,
        "fear": 2,
        "contempt": 1,
        "happiness": 9,
        "surprise": 20,
    }
    table = build_table(clips("casme", counts, ("01", "02")))
    assert labels.apply("casme_4_akmnet", table).counts == {"casme": (53, 9, 20, 107)}
    assert labels.apply("casme_3", table).counts == {"casme": (53, 9, 20)}
    assert labels.apply("casme_3_tense_negative", table).counts == {"casme": (160, 9, 20)}
    assert labels.apply("casme_4", table).counts == {"casme": (44, 38, 20, 69)}
    for name in ("casme_4_akmnet", "casme_3", "casme_3_tense_negative", "casme_4"):
        assert labels.apply(name, table).differences == ()


def test_fourdme_clips_of_several_emotions_are_left_out(build_table):
    table = build_table(
        clips("fourdme", {"Positive": 2, "Surprise+Positive": 1, "Repression": 1, "Negative": 1}, ("1",))
    )
    found = labels.apply("fourdme_5", table)
    assert found.counts == {"fourdme": (2, 1, 0, 1, 0)}
    assert [e.reason for e in found.exclusions] == ["the clip carries several emotions"]


def test_synthetic(build_table):
    rows = clips(
        "synthetic_faces", {"happiness": 2, "disgust": 1, "repression": 1, "surprise": 1, "others": 3}, ("p1", "p2")
    )
    rows += clips("synthetic_faces", {"neutral": 2}, ("p1",), expression_type="neutral")
    rows += clips("synthetic_faces", {"happiness": 1}, ("p3",), expression_type="macro")
    found = labels.apply("synthetic_5", build_table(rows))
    assert found.classes == ("happiness", "disgust", "repression", "surprise", "others")
    assert found.counts == {"synthetic_faces": (2, 1, 1, 1, 3)}
    assert found.exclusion_counts() == {
        "a neutral clip (distractors only) shows no expression": 2,
        "expression type macro is not part of synthetic_5": 1,
    }


def test_own_takes_the_words_of_the_data(build_table):
    rows = clips("clip_folder", {"smile": 2, "Frown ": 1, "frown": 1}, ("a", "b")) + clips(
        "other_set", {"wink": 1}, ("c",)
    )
    table = build_table(rows)
    found = labels.apply("own", table)
    assert found.classes == ("frown", "smile", "wink")
    assert found.counts == {"clip_folder": (2, 2, 0), "other_set": (0, 0, 1)}
    one = labels.apply("clip_folder_own", table)
    assert one.classes == ("frown", "smile")
    assert [e.reason for e in one.exclusions] == ["dataset other_set is not part of clip_folder_own"]
    with pytest.raises(UserError, match="the data hold no clip of 'casme2'; they hold clip_folder, other_set"):
        labels.apply("casme2_own", table)


def test_mistakes_are_named(build_table):
    with pytest.raises(UserError, match="did you mean casme2_5"):
        labels.get("casme2-5")
    table = build_table([{"clip": "casme2/01/EP1", "emotion": "bored"}])
    with pytest.raises(UserError, match=r"clip casme2/01/EP1: .* does not know the emotion 'bored' of casme2; it"):
        labels.apply("casme2_5", table)
    with pytest.raises(UserError, match=r"no clip is left of the 1 of casme2 \(for example: dataset casme2 is not"):
        labels.apply("samm_5", table)


def test_every_registered_set_is_whole():
    for name, label_set in labels.REGISTRY.items():
        assert name == label_set.name
        assert label_set.source
        if isinstance(label_set, LabelSet):
            assert len(set(label_set.classes)) == len(label_set.classes) >= 2
            for dataset, words in label_set.maps.items():
                assert canonical(dataset) == dataset
                assert set(words.values()) == set(label_set.classes)
                assert all(w == w.lower().strip() for w in (*words, *label_set.dropped.get(dataset, {})))


def test_published_totals():
    """Clips and persons as the annotation sheets count them."""
    totals = {
        (name, dataset, c.version): (c.total, c.persons)
        for name, s in labels.REGISTRY.items()
        if isinstance(s, LabelSet)
        for dataset, versions in s.expected.items()
        for c in versions
    }
    assert totals["casme2_3_megc2019", "casme2", "MEGC 2019 list"] == (145, 24)
    assert totals["samm_3_megc2019", "samm", "MEGC 2019 list"] == (133, 28)
    assert totals["smic_3", "smic_hs", "HS"] == (164, 16)
    assert totals["smic_vis_3", "smic_vis", "VIS"] == (71, 8)
    assert totals["smic_e_3", "smic_e", "SMIC-HS-E"][0] == 157
    assert totals["samm_5", "samm", "v2 sheet"] == (136, 27)
    assert totals["samm_8", "samm", "v2 sheet"] == (159, 29)
    assert totals["casme2_5_skdtstsan", "casme2", "SKD-TSTSAN list"][0] == 244
    assert totals["casme_4_akmnet", "casme", "AKMNet"][0] == 189
    assert totals["casme3_4", "casme3", "part A, v1"] == (921, 95)
    assert totals["casme3_3", "casme3", "part A, v2"][0] == 699
    assert totals["casme3_c_4", "casme3_c", "part C, ME sheet"] == (165, 30)
    assert totals["mmew_7", "mmew", "300-clip sheet"] == (300, 36)
    assert totals["dfme_7", "dfme", "training sheet"] == (1856, 176)
    assert totals["dfme_7", "dfme", "training, test A and test B"] == (2629, 259)
    assert totals["megc2018", "casme2", "objective-class file (MEGC 2018)"] == (185, 26)
    assert totals["megc2018", "samm", "v2 sheet"] == (68, 21)


def test_objective_classes_follow_the_table_of_the_paper():
    expected = {
        (12,): "I", (6, 7, 12): "I", (1, 2): "II", (25, 26): "II", (4,): "III", (17, 24): "III", (4, 7, 10): "IV",
        (9,): "IV", (15, 17): "V", (1, 4): "V", (1, 2, 4): "VI", (20,): "VI", (12, 14): "VII", (4, 12): "VII",
        (): "VII",
    }  # fmt: skip
    assert {units: objective.objective_class(set(units)) for units in expected} == expected


def test_objective_label_set(build_table):
    rows = [{"dataset": "samm", "subject": "006", "units": u} for u in ([12], [1, 2], [4], [9], [15], [20], [14])]
    rows += [{"dataset": "samm", "subject": "007"}]  # action units unknown
    found = labels.apply("megc2018", build_table(rows))
    assert found.labels.tolist() == [0, 1, 2, 3, 4, -1, -1, -1]
    assert found.exclusion_counts() == {"objective class VI or VII": 2, "action units are unknown": 1}
    table = build_table(rows)
    given = type(table)({**table.columns, "objective_class": np.array(["II", "", "III", "IV", "V", "I", "VII", "V"])})
    assert labels.apply("megc2018", given).labels.tolist() == [1, 1, 2, 3, 4, 0, -1, 4]


def test_action_units_of_the_cross_dataset_benchmark(build_table):
    rows = [{"dataset": "casme", "units": [4, 38]}, {"dataset": "samm", "units": [12]}, {"dataset": "samm"}]
    rows += [{"dataset": "smic_hs", "units": [4]}, {"dataset": "samm", "units": [4], "expression_type": "macro"}]
    found = labels.apply("cd6me", build_table(rows))
    assert found.task == "au"
    assert found.classes == tuple(f"AU{k}" for k in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17))
    assert found.labels.shape == (5, 12)
    assert found.labels[0].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    assert found.labels[1].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert (found.labels[2:] == -1).all()
    assert [e.reason for e in found.exclusions] == [
        "action units are unknown",
        "dataset is not part of the set",
        "expression type is not micro",
    ]
    assert "casme: 1 clips at hand, 189 published (MEB benchmark (CD6ME), 2,031 clips)" in found.differences
    assert len(found.differences) == 6


def test_frequent_action_units_of_the_data(build_table):
    rows = [{"units": [4]}] * 10 + [{"units": [4, 12]}] * 9
    found = labels.apply("au_own", build_table(rows))
    assert found.classes == ("AU4",)
    assert found.counts == {"casme2": (19,)}
    more = labels.apply(
        "au_own", build_table([dict(r, subject=f"{k:02d}") for k, r in enumerate([*rows, {"units": [12]}])])
    )
    assert more.classes == ("AU4", "AU12")


def test_action_units_of_one_database(build_table):
    rows = [{"units": [4], "subject": f"{k:02d}"} for k in range(10)] + [{"units": [12], "dataset": "samm"}]
    found = labels.apply("casme2_au", build_table(rows))
    assert found.classes == ("AU4",)
    assert found.exclusion_counts() == {"dataset is not part of the set": 1}
    clips, units = found.differences
    assert clips.startswith("casme2: 10 clips at hand, 256 published")
    assert units.startswith("casme2: 1 action units with 10 positive clips at hand, 11 published")


def test_action_units_of_synthetic_faces(build_table):
    rows = [{"units": [4, 20]}, {"units": []}, {"units": [], "expression_type": "neutral"}]
    found = labels.apply("synthetic_au", build_table([dict(r, dataset="synthetic_faces_micro") for r in rows]))
    assert len(found.classes) == 12
    assert found.labels.sum(1).tolist() == [1, 0, -12]
    assert found.exclusion_counts() == {"expression type is not micro": 1}


def test_partly_unknown_action_units_stay_unknown(build_table):
    table = build_table([{"units": [4]}, {"units": []}])
    table.columns["action_units"][1, 4] = -1
    found = labels.apply("cd6me", table)
    assert found.labels[:, 2].tolist() == [1, -1]
    assert found.used.all()


def test_synthetic_families_have_the_classes_of_the_composite(build_table):
    words = {"happiness": 2, "disgust": 1, "repression": 1, "surprise": 1, "others": 3}
    rows = clips("synthetic_faces_motion", words, ("p1", "p2")) + clips("synthetic_faces_base", words, ("p1",))
    found = labels.apply("synthetic_families", build_table(rows))
    assert found.classes == ("negative", "positive", "surprise")
    assert found.counts == {"synthetic_faces_motion": (2, 2, 1), "synthetic_faces_base": (2, 2, 1)}
    micro = labels.apply("synthetic_3", build_table(clips("synthetic_faces_micro", words, ("p1",))))
    assert micro.counts == {"synthetic_faces": (2, 2, 1)}
    assert canonical("synthetic_faces_prior") == "synthetic_faces_prior"
    assert person_of("synthetic_faces_prior", "p001") == "synthetic_prior/p001"


def test_names_of_datasets():
    expected = {
        "casme2_cropped": "casme2", "casme": "casme", "casme_squared": "casme_squared", "casme3_a": "casme3",
        "casme3_c": "casme3_c", "smic": "smic_hs", "smic_vis": "smic_vis", "smic_e_vis": "smic_e_vis",
        "casme3_macro": "casme3", "mmew_macro": "mmew",
    }  # fmt: skip
    assert {name: canonical(name) for name in expected} == expected
    assert canonical("samm_long_videos") == "samm_long_videos"
    assert canonical("synthetic_faces_micro_dev") == "synthetic_faces"
    assert canonical("my_own") == "my_own"
    assert person_of("samm_long_videos", "006") == person_of("samm", "006") == "samm/006"
    assert person_of("smic_vis", "s1") == person_of("smic", "s1") == person_of("smic_e_vis", "s1") == "smic/s1"
    assert person_of("casme3_macro", "spNO.1") == person_of("casme3", "spNO.1") != person_of("casme3_c", "spNO.1")
    for dataset in DATASETS:
        assert canonical(builder_of(dataset).replace("/", "_")) == dataset
