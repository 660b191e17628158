"""Classes are found by name, number or range, and their names fit titles and file names."""

from __future__ import annotations

import unicodedata

import pytest

from models.class_names import (
    LONGEST_IN_FILE,
    LONGEST_TITLE,
    change_title,
    ending_of,
    find_labels,
    numbered,
    shorten_names,
    title_of,
)
from models.errors import UserError

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DIGITS = tuple("0123456789")
SORTED_AS_TEXT = ("0", "1", "10", "11", "2", "3")


@pytest.mark.parametrize(
    ("words", "names", "labels"),
    [
        (("Bag", "0-4"), CLOTHES, [8, 0, 1, 2, 3, 4]),
        (("Ankle boot", "T-shirt/top", "3"), CLOTHES, [9, 0, 3]),
        (("4-2", "Bag", "Bag"), CLOTHES, [4, 3, 2, 8, 8]),
        (("3", "1", "4", "03"), DIGITS, [3, 1, 4, 3]),
        (("7-7",), DIGITS, [7]),
        ((3, 0), SORTED_AS_TEXT, [3, 0]),
        (("0-1", "a"), ("a", "0-1", "b"), [1, 0]),
        ((unicodedata.normalize("NFD", "größe"),), ("a", "größe"), [1]),
        (("ключ", "猫"), ("猫", "ключ"), [1, 0]),
    ],
)
def test_names_numbers_and_ranges(words, names, labels: list[int]) -> None:
    assert find_labels(words, names) == (labels, [])


@pytest.mark.parametrize("word", ["12", "10-12"])
def test_the_label_of_another_number_is_no_class(word: str) -> None:
    """The class 13 of the classes 0 to 11 and 13 has the label 12. Nobody who asks for 12 means it."""
    names = (*map(str, range(12)), "13")
    assert find_labels(("13", "11", 12), names)[0] == [12, 11, 12]
    with pytest.raises(UserError, match="12"):
        find_labels((word,), names)


def test_a_name_wins_over_a_number() -> None:
    labels, notes = find_labels(("2", "1-3", "2"), SORTED_AS_TEXT)
    assert labels == [4, 1, 4, 5, 4]
    assert len(notes) == 2 and all(word in notes[0] for word in ("2 is read", "number 4;", "number 2 is 10"))
    assert find_labels(("10", "11"), SORTED_AS_TEXT) == ([2, 3], [])  # There is no class with the number 10.
    labels, notes = find_labels(("1",), ("1", "2", "3"))
    assert labels == [0] and len(notes) == 1


@pytest.mark.parametrize(
    ("word", "names", "words"),
    [
        ("owl", CLOTHES, ("`labels` owl", "0 to 9", "T-shirt/top, Trouser", "Ankle boot")),
        ("bag", CLOTHES, ("`labels` bag", "did you mean Bag?")),
        ("T-shirt-top", CLOTHES, ("did you mean T-shirt/top?",)),
        ("8-12", CLOTHES, ("`labels` 8-12", "no class 10")),
        ("0-999999999", CLOTHES, ("no class 10",)),
        ("12", DIGITS, ("`labels` 12", "0 to 9")),
        ("-1", DIGITS, ("`labels` -1",)),
        ("9" * 5000, DIGITS, ("0 to 9",)),
        ("", DIGITS, ("0 to 9",)),
        ("a\nb", DIGITS, ("`labels` a b",)),
        ("twin", ("twin", "b", "twin"), ("0 and 2", "give the number")),
        ("x", tuple(f"class {k}" for k in range(1000)), ("0 to 999", "class 19 and 980 more")),
        ("x", ("n" * 300, "two\nlines"), ("…", "two lines")),
        (-1, CLOTHES, ("-1",)),
        (10, CLOTHES, ("10", "0 to 9")),
    ],
)
def test_a_class_that_does_not_exist(word, names: tuple[str, ...], words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as refused:
        find_labels((word,), names)
    line = refused.value.message + " ".join(refused.value.ways_out)
    assert all(part in line for part in words) and "\n" not in line and len(line) < 1000, line


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("T-shirt/top", "_label1_T-shirt-top"),
        ("Ankle boot", "_label1_Ankle-boot"),
        ("v1.5 (final).png", "_label1_v1-5-final-png"),
        ("..\\..//x", "_label1_x"),
        ("größe", "_label1_größe"),
        ("猫", "_label1_猫"),
        ("a_label7", "_label1_a_label7"),
        ("1", "_label1"),
        ("???", "_label1"),
        ("", "_label1"),
        ("line\nbreak\u202e", "_label1_line-break"),
        ("\ud800x", "_label1_x"),
    ],
)
def test_names_in_file_names(name: str, ending: str) -> None:
    assert ending_of(("", name), 1) == ending


@pytest.mark.parametrize("letter", ["a", "é", "猫", "𝔸", "a/"])
def test_long_names_are_cut_between_letters(letter: str) -> None:
    short = ending_of((letter * 300,), 0).removeprefix("_label0_")
    assert LONGEST_IN_FILE - 4 < len(short.encode()) <= LONGEST_IN_FILE
    assert (letter * 300).replace("/", "-").startswith(short)
    assert len(title_of((letter * 300,), 0)) == LONGEST_TITLE


def test_names_that_become_equal_keep_their_numbers() -> None:
    names = ("a/b", "a b", "a-b")
    assert [ending_of(names, label) for label in range(3)] == ["_label0_a-b", "_label1_a-b", "_label2_a-b"]


def test_titles_of_changes() -> None:
    assert [change_title("Bag", "Coat"), change_title("3", "5"), change_title("3")] == [
        "Bag to Coat",
        "class 3 to 5",
        "class 3",
    ]


def test_number_and_name() -> None:
    assert [numbered(CLOTHES, 8), numbered(DIGITS, 8)] == ["8 Bag", "8"]
    assert ending_of((), 3) == "_label3"


def test_shorten_names() -> None:
    assert shorten_names(["a", "b"]) == "a, b"
    assert shorten_names(map(str, range(15))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 5 more"
    assert len(shorten_names(["x" * 300])) == 40 and shorten_names(["a\nb"]) == "a\\nb"
