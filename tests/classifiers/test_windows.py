"""Nothing is cut: each token in a window, each short run whole in one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.windows import OVERLAP, SIZE, Window, span, split


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    special = draw(st.integers(0, 3))
    overlap = draw(st.integers(0, 60))
    size = draw(st.integers(overlap + special + 1, overlap + special + 200))
    return draw(st.integers(0, 3000)), size, overlap, special


@given(shapes())
def test_every_token_is_in_a_window_and_no_window_is_too_long(shape: tuple[int, int, int, int]) -> None:
    count, size, overlap, special = shape
    windows = split(count, size, overlap, special)
    assert {i for w in windows for i in range(w.start, w.end)} == set(range(count))
    assert all(0 < w.end - w.start <= size - special for w in windows)
    assert len({w.end - w.start for w in windows}) <= 1
    assert [w.start for w in windows] == sorted({w.start for w in windows})


@given(shapes())
def test_no_fewer_windows_would_do_and_no_shorter_ones(shape: tuple[int, int, int, int]) -> None:
    count, size, overlap, special = shape
    windows = split(count, size, overlap, special)
    room = size - special
    if len(windows) > 1:
        number, length = len(windows), windows[0].end - windows[0].start
        assert room + (number - 2) * (room - overlap) < count
        assert length - 1 + (number - 1) * (length - 1 - overlap) < count


@given(shapes(), st.data())
def test_a_run_as_long_as_the_overlap_lies_whole_in_one_window(
    shape: tuple[int, int, int, int], data: st.DataObject
) -> None:
    count, size, overlap, special = shape
    length = data.draw(st.integers(0, min(overlap, count)))
    start = data.draw(st.integers(0, count - length))
    if count and length:
        assert any(w.start <= start and start + length <= w.end for w in split(count, size, overlap, special))


@pytest.mark.parametrize(
    ("count", "windows"),
    [
        (0, ()),
        (1, ((0, 1),)),
        (190, ((0, 190),)),
        (191, ((0, 120), (71, 191))),
        (332, ((0, 190), (142, 332))),
        (333, ((0, 143), (95, 238), (190, 333))),
    ],
)
def test_the_default_shape(count: int, windows: tuple[tuple[int, int], ...]) -> None:
    assert (SIZE, OVERLAP) == (192, 48)
    assert split(count) == tuple(Window(*w) for w in windows)


@pytest.mark.parametrize("wrong", [(-1, 192, 48, 2), (10, 50, 48, 2), (10, 192, -1, 2), (10, 192, 48, -1)])
def test_a_shape_that_cannot_move_on_is_refused(wrong: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"negative|no room"):
        split(*wrong)


def test_a_span_is_in_code_points() -> None:
    assert span(Window(1, 3), [(0, 2), (3, 7), (8, 9), (9, 12)]) == (3, 9)
