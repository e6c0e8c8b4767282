"""Pieces of answers as messages, and back."""

from __future__ import annotations

import dataclasses

from weft.server.answer import Piece, plain, record_of


def test_a_piece_that_crosses_a_process_is_what_it_was():
    whole = Piece("a", 3, "stop", [(1, -0.5, [(2, -1.0)])], [(4, None, [])])
    assert all(getattr(whole, field.name) is not None for field in dataclasses.fields(Piece))
    for piece in (whole, Piece("", 0)):
        assert plain(record_of(piece)) == piece
