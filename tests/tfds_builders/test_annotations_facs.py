"""FACS cells: every quirk of the sheets, the published totals, and never an exception of Python's own."""

import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mer_jax.data.clips import AU_SIDES, AU_SLOTS
from mer_jax.errors import UserError
from tfds_builders.common.facs import ActionUnits, count_numbers, from_codes, parse_action_units


def facts(cell: object) -> list[list[tuple[int, str, int]]]:
    return [[(c.number, c.side, c.intensity) for c in g] for g in parse_action_units(cell).groups]


def one(number: int, side: str = "unspecified", intensity: int = 0) -> list[tuple[int, str, int]]:
    return [(number, side, intensity)]


@pytest.mark.parametrize(
    ("cell", "groups"),
    [
        (4, [one(4)]),
        (4.0, [one(4)]),
        ("4.0", [one(4)]),
        ("4+L10", [one(4), one(10, "left")]),
        ("12+15 ", [one(12), one(15)]),
        (" R1 + R2", [one(1, "right"), one(2, "right")]),
        ("43E", [one(43, intensity=5)]),
        ("12A", [one(12, intensity=1)]),
        ("A12", [one(12, "asymmetric")]),
        ("A12B", [one(12, "asymmetric", 2)]),
        ("T18+B23", [one(18, "top"), one(23, "bottom")]),
        ("ref(7B)+43", [one(7, intensity=2), one(43)]),
        ("L12 or L14", [[(12, "left", 0), (14, "left", 0)]]),
        ("L12orL14", [[(12, "left", 0), (14, "left", 0)]]),
        ("(R6 or R12)+R15", [[(6, "right", 0), (12, "right", 0)], one(15, "right")]),
        ("R14A or 17A or 24A", [[(14, "right", 1), (17, "unspecified", 1), (24, "unspecified", 1)]]),
        ("4/7", [one(4) + one(7)]),
        ("10A/B", [one(10, intensity=1)]),
        ("4A/B+7", [one(4, intensity=1), one(7)]),
        ("A/L12", [one(12, "asymmetric")]),
        ("R14+17+soft focus", [one(14, "right"), one(17)]),
        ("12L", [one(12, "left")]),  # MMEW
        ("4R+7", [one(4, "right"), one(7)]),
        ("AU4+AU7", [one(4), one(7)]),
        ("AU 12", [one(12)]),
        ("AUR12A", [one(12, "right", 1)]),
        ("4,45,", [one(4), one(45)]),  # CAS(ME)^3 part C
        ("4，11", [one(4), one(11)]),
        ("９＋Ｌ４", [one(9), one(4, "left")]),
        ("4+AD38+M57", [one(4), one(38), one(57)]),
        ("4 7", [one(4), one(7)]),
    ],
)  # fmt: skip
def test_codes(cell, groups):
    assert facts(cell) == groups
    assert parse_action_units(cell).complete


def test_kinds_words_and_marks():
    assert [g[0].kind for g in parse_action_units("AU4+AD38+M57+L12").groups] == ["AU", "AD", "M", "AU"]
    assert parse_action_units("R14+17+soft focus").words == ("soft focus",)
    assert parse_action_units("13?").groups[0][0].doubtful
    assert parse_action_units("AU4(k)+AU7").groups[0][0].kept


@pytest.mark.parametrize("cell", [None, "", "  ", "?", "/", "\\", "nan", float("nan"), 0, "soft focus", "？"])
def test_unknown_is_not_absent(cell):
    present, sides, intensity = parse_action_units(cell).vectors()
    assert (present == -1).all()
    assert not sides.any()
    assert not intensity.any()


def test_vectors():
    present, sides, intensity = parse_action_units("4B+L10").vectors()
    assert present.dtype == sides.dtype == intensity.dtype == np.int8
    assert present.shape == (AU_SLOTS,)
    assert list(np.flatnonzero(present)) == [4, 10]
    assert AU_SIDES[sides[10]] == "left"
    assert (intensity[4], intensity[10]) == (2, 0)


def test_an_open_question_leaves_the_rest_unknown():
    present, _, _ = parse_action_units("4+?").vectors()
    assert present[4] == 1
    assert (np.delete(present, 4) == -1).all()
    present, _, _ = parse_action_units("13?+4").vectors()
    assert (present[13], present[4], present[12]) == (-1, 1, 0)


@pytest.mark.parametrize(
    ("alternatives", "expected"), [("first", (1, -1, 0)), ("all", (1, 1, 0)), ("drop", (-1, -1, 0))]
)
def test_alternatives(alternatives, expected):
    present, _, _ = parse_action_units("L12 or L14").vectors(alternatives)
    assert (present[12], present[14], present[4]) == expected


def test_held_units_are_neither_present_nor_absent():
    present, _, _ = parse_action_units("AU4(k)+AU7").vectors()
    assert (present[4], present[7], present[1]) == (-1, 1, 0)


def test_left_and_right_make_a_bilateral_unit():
    _, sides, _ = parse_action_units("L12+R12").vectors()
    assert AU_SIDES[sides[12]] == "unspecified"


@pytest.mark.parametrize("cell", ["12.5", 12.5, "4+123", "0+4", "2014-05-12T00:00:00", "4-7", "9" * 5000])
def test_refused_with_the_place(cell):
    with pytest.raises(UserError, match=r"sheet\.xlsx, row 7"):
        parse_action_units(cell, "sheet.xlsx, row 7, column 'AU'")


TOTALS = {
    "casme2_2014": {
        4: 129, 7: 38, 12: 34, 14: 27, 1: 26, 17: 25, 2: 21, 10: 17, 15: 16, 6: 13, 9: 13, 5: 2, 24: 2, 25: 2, 38: 2,
        16: 1, 18: 1, 20: 1, 26: 1,
    },
    "samm": {
        7: 46, 12: 30, 4: 23, 2: 18, 14: 13, 5: 10, 24: 10, 43: 8, 17: 7, 20: 7, 25: 7, 1: 6, 10: 6, 26: 6, 6: 5, 9: 5,
        39: 5, 15: 4, 18: 4, 13: 3, 31: 2, 38: 2, 8: 1, 21: 1, 23: 1, 56: 1, 61: 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("dataset", TOTALS)
def test_published_totals_survive_every_way_of_writing(dataset):
    """Cells rebuilt from the published totals, in the ways of that sheet, give the totals back."""
    rng = random.Random(0)
    tokens = [n for n, count in TOTALS[dataset].items() for _ in range(count)]
    rng.shuffle(tokens)
    cells: list[object] = ["?"] * 5
    while tokens:
        taken = [tokens.pop() for _ in range(min(len(tokens), rng.randint(1, 4)))]
        if dataset == "casme2_2014":
            parts = [rng.choice(["", "", "L", "R"]) + str(n) for n in taken]
            text = "+".join(parts)
            cells.append(int(text) if text.isdigit() else text)
        else:
            parts = [
                rng.choice(["", "L", "R", "A", "A/L", "T", "B"]) + str(n) + rng.choice(["", "A", "E", "A/B"])
                for n in taken
            ]
            joint = rng.choice(["+", " or ", " + "])
            text = joint.join(parts)
            cells.append(rng.choice([text, text + " ", f"({text})", text + "+soft focus"]))
    counted = count_numbers(parse_action_units(c) for c in cells)
    assert counted == TOTALS[dataset]


ALPHABET = "0123456789+,，;/ ?()LRABkTorEAUDMfx.-\n\\٣²"


@given(st.one_of(st.text(ALPHABET, max_size=30), st.text(max_size=20), st.integers(), st.floats(), st.none()))
@example("²")
@example("٣+4")
@example("or")
@example("L or R")
def test_any_cell_gives_a_value_or_our_error(cell):
    try:
        units = parse_action_units(cell, "sheet, row 3")
    except UserError as error:
        if "sheet, row 3" not in str(error):
            raise
        return
    for alternatives in ("first", "all", "drop"):
        present, sides, intensity = units.vectors(alternatives)
        assert set(np.unique(present)) <= {-1, 0, 1}
        assert not sides[present != 1].any()
        assert not intensity[present != 1].any()
        assert intensity.max() <= 5
    assert set(units.numbers("first")) <= set(units.numbers("all"))


def test_files_with_codes():
    units = from_codes([(1, 0), (12, 3)], "facs.txt")
    present, _, intensity = units.vectors()
    assert (present[1], present[12], intensity[12], present[4]) == (1, 1, 3, 0)
    with pytest.raises(UserError, match=r"facs\.txt"):
        from_codes([(100, 0)], "facs.txt")
    assert not ActionUnits().complete
