"""The stream of mocks: a pure function of the step, for any history and any number of ranks."""

from __future__ import annotations

import threading

import pytest
import torch
from toy_mocks import toy_source

from lensscan.mocks.recipes import make_recipe
from lensscan.train.augment import augment
from lensscan.train.settings import Augmentation, Stream
from lensscan.train.stream import MockStream, simulate_sample

WINDOWED = Stream(chunk=32, window=3, reuse=2.0)
SPLIT = Stream(chunk=37, window=3, reuse=2.0, split=True)


@pytest.fixture
def streams():
    opened = []

    def make(*arguments, **options) -> MockStream:
        opened.append(MockStream(*arguments, **options))
        return opened[-1]

    yield make
    for stream in opened:
        stream.close()


def test_any_step_can_be_asked_first(streams):
    whole = streams(toy_source, WINDOWED, 16, 1)
    batches = {step: whole(step) for step in range(20)}
    late = streams(toy_source, WINDOWED, 16, 1)
    for step in (13, 14, 19):
        batch = late(step)
        assert torch.equal(batch.images, batches[step].images)
        assert torch.equal(batch.is_lens, batches[step].is_lens)


@pytest.mark.parametrize("settings", [WINDOWED, SPLIT, Stream(window=1, reuse=1.0)])
def test_ranks_share_the_global_batch(streams, settings):
    whole = streams(toy_source, settings, 16, 1)
    ranks = [streams(toy_source, settings, 16, 1, rank, 3) for rank in range(3)]
    for step in (0, 1, 7):
        joined = torch.cat([rank(step).images for rank in ranks])
        assert torch.equal(joined, whole(step).images)


def test_split_chunks_are_made_by_the_ranks_that_draw_from_them(streams):
    made = {rank: set() for rank in range(3)}

    def source(rank):
        def make(start, n):
            made[rank] |= set(range(start, start + n))
            return toy_source(start, n)

        return make

    ranks = [streams(source(rank), SPLIT, 16, 1, rank, 3) for rank in range(3)]
    for step in range(15):
        for rank in ranks:
            rank(step)
    for rank in ranks:
        rank.close()
    assert not made[0] & made[1]
    assert not made[1] & made[2]
    assert made[0] | made[1] | made[2] == set(range(max(made[2]) + 1))


def test_split_rows_draw_from_all_of_their_own_part_of_every_chunk(streams):
    stored = (toy_source(0, 740).images / 16).half().float() * 16
    place = {tuple(row.flatten()[:4].tolist()): number for number, row in enumerate(stored)}
    stream = streams(toy_source, SPLIT, 16, 1)
    seen = [set() for _ in range(16)]
    for step in range(60):
        drawn = [place[tuple(row.flatten()[:4].tolist())] for row in stream(step).images]
        newest = stream.newest(step)
        assert {number // 37 for number in drawn} <= set(range(max(0, newest - 2), newest + 1))
        for row, number in enumerate(drawn):
            seen[row].add(number % 37)
    assert seen == [set(range(37 * row // 16, 37 * (row + 1) // 16)) for row in range(16)]


def test_fresh_stream_uses_every_mock_once(streams):
    made = []
    lock = threading.Lock()

    def source(start, n):
        with lock:
            made.extend(range(start, start + n))
        return toy_source(start, n)

    stream = streams(source, Stream(window=1, reuse=1.0), 8, 1)
    for step in range(5):
        assert torch.equal(stream(step).images, toy_source(8 * step, 8).images)
    stream.close()
    assert made == list(range(len(made)))


def test_window_slides_and_memory_is_bounded(streams):
    stream = streams(toy_source, WINDOWED, 16, 1)
    for step in range(30):
        stream(step)
        assert len(stream.chunks) <= 3
    # 29 steps of 16 at a reuse of 2 have passed 7 chunks of 32
    assert stream.newest(29) == 7
    assert sorted(stream.chunks) == [5, 6, 7]


def test_what_is_made_ahead_and_passed_over_is_not_kept(streams):
    """Three chunks go by in a step: the one made ahead is not always among those of the next step."""
    stream = streams(toy_source, Stream(chunk=8, window=1, reuse=0.7), 16, 1)
    for step in range(12):
        stream(step)
        assert set(stream.ahead) <= {stream.newest(step) + 1}
        assert set(stream.chunks) == {stream.newest(step)}


def test_a_window_is_filled_chunk_by_chunk_with_breaks_between(streams):
    """The same batch comes out, whether it was asked for at once or the window filled before."""
    made = []
    source = lambda start, n: made.append(start) or toy_source(start, n)
    for settings in (Stream(chunk=32, window=3, epochs=True), WINDOWED):
        made.clear()
        stream = streams(source, settings, 16, 1)
        breaks = stream.fill(9)
        for known in (1, 2):
            next(breaks)
            assert len(made) == known
        assert list(breaks) == []
        assert torch.equal(stream(9).images, streams(toy_source, settings, 16, 1)(9).images)
        assert list(stream.fill(9)) == []


def test_batches_come_from_the_window(streams):
    stored = (toy_source(0, 256).images / 16).half().float() * 16
    place = {tuple(row.flatten()[:4].tolist()): number for number, row in enumerate(stored)}
    stream = streams(toy_source, WINDOWED, 16, 1)
    for step in (0, 10, 29):
        chunks = {place[tuple(row.flatten()[:4].tolist())] // 32 for row in stream(step).images}
        newest = stream.newest(step)
        assert chunks <= set(range(max(0, newest - 2), newest + 1))


def test_a_finite_set_comes_again(streams):
    made = []
    source = lambda start, n: made.append(start) or toy_source(start, n)
    stream = streams(source, Stream(chunk=16, window=1, reuse=0.5, chunks=2), 16, 1)
    for step in range(6):
        stream(step)
    stream.close()
    assert set(made) == {0, 16}


def test_an_error_in_the_simulator_is_raised_in_the_training(streams):
    def source(start, n):
        raise RuntimeError("no stars left")

    with pytest.raises(RuntimeError, match="no stars left"):
        streams(source, WINDOWED, 16, 1)(0)


def test_epochs_go_through_a_fixed_set_once_each_in_an_order_of_their_own(streams):
    made = []

    def source(start, n):
        made.append(start)
        return toy_source(start, n)

    settings = Stream(chunk=32, window=2, epochs=True)
    stream = streams(source, settings, 16, 1)
    batches = [stream(step) for step in range(8)]
    assert sorted(made) == [0, 32], "nothing beyond the fixed set is simulated"
    whole = {tuple(row) for row in (toy_source(0, 64).images / 16).half().flatten(1)[:, :5].tolist()}
    orders = []
    for first in (0, 4):
        epoch = torch.cat([batch.images for batch in batches[first : first + 4]])
        rows = [tuple(row) for row in (epoch / 16).flatten(1)[:, :5].tolist()]
        assert len(rows) == 64
        assert set(rows) == whole
        orders.append(rows)
    assert orders[0] != orders[1]
    late = streams(toy_source, settings, 16, 1)
    assert torch.equal(late(6).images, batches[6].images)


def test_labels_stay_with_their_images_in_any_order(streams):
    """Rows are told by their pixels: label and truth of every drawn row are those it was made with."""
    known = toy_source(0, 96)
    place = {tuple(row): at for at, row in enumerate((known.images / 16).half().flatten(1)[:, :5].tolist())}
    for settings in (WINDOWED, Stream(chunk=48, window=2, epochs=True)):
        batch = streams(toy_source, settings, 16, 1)(9)
        rows = [place[tuple(row)] for row in (batch.images / 16).flatten(1)[:, :5].tolist()]
        assert len(set(rows)) > 8
        assert torch.equal(batch.is_lens, known.is_lens[rows])
        torch.testing.assert_close(batch.latent, known.latent[rows], equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "mocks"),
    [
        (Stream(chunk=64, window=1, reuse=1.0), 80),
        (Stream(chunk=64, window=1, reuse=1.0, chunks=3), 48),
        (Stream(chunk=32, window=1, reuse=1.0, epochs=True), 32),
        (Stream(chunk=64, window=2, reuse=1.0, epochs=True), 80),
        (Stream(chunk=8, window=2, reuse=2.0), 40),
        (Stream(chunk=8, window=2, reuse=2.0, chunks=3), 24),
    ],
)
def test_the_mocks_of_some_steps_are_counted(streams, settings, mocks):
    """Five batches of 16: new ones each, a fixed set or a part of it, or most of a window of chunks."""
    stream = streams(toy_source, settings, 16, 1)
    drawn = torch.cat([stream(step).images for step in range(5)]).flatten(1)[:, :5]
    found = len({tuple(row) for row in drawn.tolist()})
    assert stream.mocks_of(5) == mocks
    assert found == mocks if stream.fresh or settings.epochs else 0.6 * mocks < found <= mocks


def test_a_batch_across_two_epochs_has_its_full_size(streams):
    stream = streams(toy_source, Stream(chunk=20, window=1, epochs=True), 16, 1)
    drawn = torch.cat([stream(step).images for step in range(5)])
    assert len(drawn) == 80
    rows = [tuple(row) for row in drawn.flatten(1)[:, :5].tolist()]
    assert all(rows.count(row) == 4 for row in rows), "four epochs, each stamp once in each"


@pytest.mark.parametrize("settings", [WINDOWED, Stream(window=1, reuse=1.0)])
def test_missing_pixels_come_with_their_stamps(streams, settings):
    def masked_source(start: int, n: int):
        sample = toy_source(start, n)
        sample.mask = sample.images.half().float() > 30
        return sample

    stream = streams(masked_source, settings, 16, 1)
    for step in (0, 9):
        batch = stream(step)
        assert batch.mask.any()
        assert torch.equal(batch.mask, batch.images.half().float() > 30)
    assert streams(toy_source, settings, 16, 1)(0).mask is None


def test_lensed_systems_below_the_label_rule_are_known():
    """One in ten of the mocks of the lens finding challenge; their stamps keep their place in every batch."""
    found = simulate_sample(make_recipe({"base": "lens-challenge-ground", "size": 16}, "small"), 3, 0, 200)
    assert 5 <= int(found.vague.sum()) <= 40
    assert not (found.vague & found.is_lens).any()
    rows = torch.tensor([7, 3, 11])
    assert torch.equal(found.rows(rows).vague, found.vague[rows])
    changed = augment(found, Augmentation(), 1, 0, 0, 200)
    assert torch.equal(changed.vague, found.vague)
