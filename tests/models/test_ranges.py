"""Ranges in types: what is inside, what is outside, and how a refusal reads."""

import math
from typing import Annotated, Literal

import pytest

from models.errors import UserError
from models.ranges import NonNegative, Positive, PositiveInt, Range, Share, ShareBelowOne, check_ranges


@pytest.mark.parametrize(
    ("hint", "inside", "outside"),
    [
        (PositiveInt, [1, 5], [0, -1]),
        (Positive, [1e-9, 2.0], [0.0, -1.0, math.inf, math.nan]),
        (NonNegative, [0.0, 3.0], [-1e-9]),
        (Share, [0.0, 1.0], [1.5, -0.1]),
        (ShareBelowOne, [0.0, 0.99], [1.0]),
        (float, [-1e9, 0.0], [math.nan, math.inf]),
        (PositiveInt | None, [None, 3], [0]),
        (tuple[PositiveInt, ...], [(1, 2), ()], [(1, 0)]),
        (tuple[PositiveInt, ...] | None, [None, (1,)], [(0,)]),
        (tuple[Share, Positive], [(0.0, 2.0)], [(2.0, 2.0), (0.5, 0.0)]),
        (Annotated[int, Range(2, 4), "help"], [2, 4], [1, 5]),
        (Literal["rope", "learned"], ["rope", None], ["sine", ""]),
        (bool, [True, False], []),
        (str, ["x"], []),
    ],
)
def test_what_is_inside_and_outside(hint: object, inside: list[object], outside: list[object]) -> None:
    for value in inside:
        check_ranges({"x": value}, {"x": hint})
    for value in outside:
        with pytest.raises(UserError, match=r"^x .*: must be"):
            check_ranges({"x": value}, {"x": hint})


def test_a_refusal_names_option_value_and_range() -> None:
    with pytest.raises(UserError) as error:
        check_ranges({"blocks": 0}, {"blocks": PositiveInt}, prefix="network.")
    assert error.value.text(lambda option: f"--{option}") == "--network.blocks 0: must be at least 1"
    with pytest.raises(UserError, match=r"x 1\.5: must be at least 0 and less than 1"):
        check_ranges({"x": 1.5}, {"x": ShareBelowOne})
