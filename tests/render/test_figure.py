from __future__ import annotations

import warnings

import pytest

from lensscan.render.figure import new_figure, png_bytes


def test_letters_that_the_font_lacks_are_drawn_without_a_warning():
    figure = new_figure(2, 1)
    figure.suptitle("Ünï-星")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert png_bytes(figure).startswith(b"\x89PNG")


def test_other_warnings_are_heard():
    figure = new_figure(2, 1)
    inner = figure.draw

    def draw(renderer: object) -> None:
        warnings.warn("something else", UserWarning, stacklevel=2)
        inner(renderer)

    figure.draw = draw
    with pytest.warns(UserWarning, match="something else"):
        png_bytes(figure)
