"""Contact sheets."""

import numpy as np
import pytest

from lensscan.errors import OutputError
from lensscan.render.png import save_png
from lensscan.render.sheet import BACKGROUND, RING, Cell, Ring, contact_sheet

Image = pytest.importorskip("PIL.Image")


def flat(colour=(10, 120, 10), shape=(20, 20)):
    return np.broadcast_to(np.array(colour, dtype=np.uint8), (*shape, 3)).copy()


def test_page_grows_with_rows_and_captions(tmp_path):
    cells = [Cell(flat(), ("one", "two")) for _ in range(5)]
    page = contact_sheet(cells, 3, stamp=60, title="five")
    taller = contact_sheet(cells, 3, stamp=60, title="five", rows=4)
    assert taller.size[0] == page.size[0]
    assert taller.size[1] > page.size[1]
    path = save_png(page, tmp_path / "new" / "page.png")
    with Image.open(path) as image:
        assert image.size == page.size
    assert [p.name for p in path.parent.iterdir()] == ["page.png"]


def test_first_row_of_the_array_is_at_the_bottom():
    image = flat((0, 0, 0))
    image[:4] = (250, 0, 0)
    page = np.asarray(contact_sheet([Cell(image)], 1, stamp=40))
    rows = np.flatnonzero((page[..., 0] > 200).any(axis=1))
    columns_black = (page == 0).all(axis=2)
    assert rows.min() > np.flatnonzero(columns_black.any(axis=1)).min()


def test_ring_is_drawn_where_it_belongs():
    page = np.asarray(contact_sheet([Cell(flat((0, 0, 0), (41, 41)), ring=Ring(5, 5, 8, 4, 0.0))], 1, stamp=164))
    rows, columns = np.nonzero((page == RING).all(axis=2))
    scale = 164 / 41
    assert np.ptp(columns) == pytest.approx(16 * scale, abs=3)
    assert np.ptp(rows) == pytest.approx(8 * scale, abs=3)
    black_rows, black_columns = np.nonzero((page == 0).all(axis=2))
    centre_row = (black_rows.min() + black_rows.max()) / 2
    centre_column = (black_columns.min() + black_columns.max()) / 2
    assert (columns.min() + columns.max()) / 2 - centre_column == pytest.approx(5 * scale, abs=2)
    assert centre_row - (rows.min() + rows.max()) / 2 == pytest.approx(5 * scale, abs=2)


def test_border_badge_and_odd_shapes():
    cells = [Cell(flat(shape=(10, 30)), border=(1, 200, 3), badge="17"), Cell(flat(), ("x" * 200,))]
    page = np.asarray(contact_sheet(cells, 2, stamp=80))
    assert (page == (1, 200, 3)).all(axis=2).any()
    assert (page == 255).all(axis=2).any()
    assert np.asarray(contact_sheet([], 4)).reshape(-1, 3).tolist()[0] == list(BACKGROUND)


def test_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        save_png(flat(), tmp_path / "file" / "page.png")
