"""Pieces of long texts: none of it is lost, and the best piece speaks for the whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from classifiers.base import Finding, Message, Role
from classifiers.pieces import Piece, cut, pooled
from tests.classifiers.tables import messages

words = st.text(st.sampled_from("ab \n"), max_size=60)


@given(st.lists(words, max_size=5), st.integers(5, 20), st.integers(0, 4))
def test_every_letter_is_in_a_piece_and_every_short_run_in_one(texts: list[str], size: int, overlap: int) -> None:
    pieces = cut(messages(*texts), size, overlap)
    for piece in pieces:
        assert 0 < len(piece.text) <= size
        for index, span in piece.places:
            assert piece.text == (texts[index] if span is None else texts[index][slice(*span)])
    for index, text in enumerate(texts):
        spans = [span or (0, len(text)) for piece in pieces for at, span in piece.places if at == index]
        for start in range(len(text)):
            run = text[start : start + max(overlap, 1)]
            if len(run) == max(overlap, 1) and not run.isspace():
                assert any(low <= start and start + len(run) <= high for low, high in spans)


def test_equal_pieces_are_one_question_unless_role_or_context_differ() -> None:
    said = [
        Message(Role.USER, "yes", "/0"),
        Message(Role.USER, "yes", "/1"),
        Message(Role.ASSISTANT, "yes", "/2"),
        Message(Role.ASSISTANT, "yes", "/3", context="Shall I?"),
    ]
    assert [piece.places for piece in cut(said, 10, 2)] == [((0, None), (1, None)), ((2, None),), ((3, None),)]


def test_the_highest_score_counts_with_its_place() -> None:
    first = Piece(Role.USER, "a", "", ((0, (0, 10)), (1, None)))
    second = Piece(Role.USER, "b", "", ((0, (8, 18)),))
    judged = [(first, {"x": 0.2, "y": 0.9, "z": 0.001}), (second, {"x": 0.7, "y": 0.9})]
    assert pooled("n", judged, 0.01) == [
        Finding("n", "x", 0.7, 0, (8, 18)),
        Finding("n", "y", 0.9, 0, (0, 10)),
        Finding("n", "x", 0.2, 1, None),
        Finding("n", "y", 0.9, 1, None),
    ]
