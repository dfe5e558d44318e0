"""Training from a folder on disk: the same mocks as on the fly, in an order keyed by epoch, for any number of ranks."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from curves import curve, leave_curve, needs_horovod
from toy_mocks import train
from toy_ranks import MAPPING, Meeting, Thread, on_threads

from lensscan.errors import ConfigError, ExitCode, PlanMismatch
from lensscan.mocks import dataset
from lensscan.mocks.dataset import Dataset
from lensscan.mocks.recipes import Recipe, make_recipe
from lensscan.mocks.seeds import TESTSETS
from lensscan.train import loop
from lensscan.train.augment import Sample, network_inputs
from lensscan.train.distributed import Engine, Serial
from lensscan.train.folder import FolderMocks, open_folder, with_folder
from lensscan.train.loop import Trainer
from lensscan.train.run import make_trainer
from lensscan.train.settings import Stream, TrainSettings
from lensscan.train.stream import MockStream, StoredStream, simulate_sample
from lensscan.train.units import with_units

N = 72
TINY = {
    "base": "des-griz",
    "name": "tiny",
    "size": 24,
    "noise": {"missing_band": 0.2},
    "effects": {"masks": [0.5, 2, 0.4, 0.9]},
}


def tiny(**changes) -> Recipe:
    return make_recipe({**TINY, **changes}, "tiny")


def write(folder: Path, recipe: Recipe, seed: int = 10, n: int = N, layout: str = "packs") -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "BLOCK", 20)
        Dataset(recipe, seed, n, folder, layout).write()
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder of the very mocks that a training with seed 1 simulates."""
    return write(tmp_path_factory.mktemp("folder") / "mocks", tiny())


def settings_of(folder: Path | str, **changes) -> TrainSettings:
    stream = {"folder": str(folder)}
    return TrainSettings.from_mapping({**MAPPING, "batch": 20, "recipe": "tiny", "stream": stream, **changes}, "here")


@pytest.fixture
def opened(written):
    made = []

    def make(folder: Path = written) -> FolderMocks:
        made.append(open_folder(settings_of(folder), tiny()))
        return made[-1]

    yield make
    for mocks in made:
        mocks.close()


def assert_same_mocks(found: Sample, wanted: Sample) -> None:
    torch.testing.assert_close(found.is_lens, wanted.is_lens)
    torch.testing.assert_close(found.vague, wanted.vague)
    torch.testing.assert_close(found.latent, wanted.latent, equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(found.present, wanted.present)
    torch.testing.assert_close(found.mask, wanted.mask)
    for one, other in zip(network_inputs(found, 2.0, 0.263), network_inputs(wanted, 2.0, 0.263), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["packs", "fits"])
def test_a_folder_gives_what_the_simulator_gives(tmp_path, written, opened, layout):
    folder = written if layout == "packs" else write(tmp_path / "loose", tiny(), layout="fits")
    made = simulate_sample(tiny(), 10, 0, N)
    rows = torch.randperm(N, generator=torch.Generator().manual_seed(3))[:50]
    assert made.is_lens[rows].any()
    assert made.mask is not None
    assert made.mask[rows].any()
    assert not made.present[rows].all()
    assert_same_mocks(opened(folder).take(rows), made.rows(rows))


def test_sets_painted_on_real_stamps_are_written_and_read_too(tmp_path, monkeypatch):
    """Jacobs' set B: here the real stamps are those of another folder of mocks."""
    stamps = write(tmp_path / "stamps", make_recipe({"base": "des-griz", "name": "sky", "size": 32}, "sky"), n=40)
    bands = "\n".join(f'[bands.{band}]\nmag = "mag_{band}"' for band in "griz")
    (tmp_path / "sky.toml").write_text(f'name = "sky"\npixel_scale = 0.263\n{bands}\n')
    canvas = {"catalog": stamps / "catalog.fits", "survey": tmp_path / "sky.toml", "stamps": f"packs:{stamps}/packs"}
    jacobs = {"base": "des-jacobs2019-b", "name": "b", "size": 24, "canvas": {k: str(v) for k, v in canvas.items()}}
    recipe = make_recipe(jacobs, "b")
    folder = write(tmp_path / "mocks", recipe, n=24)
    made = simulate_sample(recipe, 10, 0, 24)
    assert made.is_lens.any()
    assert not made.is_lens.all()
    monkeypatch.setattr("lensscan.mocks.simulate.real_sky", None)
    mocks = open_folder(settings_of(folder), recipe)
    assert_same_mocks(mocks.take(torch.arange(24)), made)
    mocks.close()


def test_a_stream_from_disk_is_the_stream_of_a_fixed_set(written, opened):
    """Same seed, same rows, whether they are simulated or read; and every rank reads its share of each batch."""
    fixed = MockStream(lambda start, n: simulate_sample(tiny(), 10, start, n), Stream(N, 1, epochs=True), 20, 1)
    whole = StoredStream(opened(), 20, 1)
    ranks = [StoredStream(opened(), 20, 1, rank, 3) for rank in range(3)]
    for step in (0, 3, 4, 11):
        batch = whole(step)
        torch.testing.assert_close(batch.latent, fixed(step).latent, equal_nan=True, rtol=0, atol=0)
        torch.testing.assert_close(batch.images, fixed(step).images, rtol=1e-3, atol=0.1)
        joined = torch.cat([rank(step).images for rank in ranks])
        assert torch.equal(joined, batch.images)
    late = StoredStream(opened(), 20, 1)
    assert torch.equal(late(11).images, batch.images), "any step can be the first"
    for stream in (fixed, whole, late, *ranks):
        stream.close()


def test_every_epoch_is_a_permutation_of_its_own():
    class Numbers:
        n = 10

        def take(self, rows):
            return rows

        def close(self):
            pass

    stream = StoredStream(Numbers(), 4, 1)
    drawn = torch.cat([stream(step) for step in range(15)]).reshape(6, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in drawn.tolist())
    assert len({tuple(epoch) for epoch in drawn.tolist()}) == 6
    assert stream(2).tolist() == drawn.flatten()[8:12].tolist(), "a batch across two epochs"
    other = StoredStream(Numbers(), 4, 2)
    assert torch.cat([other(step) for step in range(5)]).tolist() != drawn.flatten()[:20].tolist()
    stream.close()
    other.close()


class Double:
    """Mocks of a folder in float64."""

    def __init__(self, mocks: FolderMocks) -> None:
        self.mocks, self.n, self.close = mocks, mocks.n, mocks.close

    def take(self, rows: torch.Tensor) -> Sample:
        sample = self.mocks.take(rows)
        return dataclasses.replace(sample, images=sample.images.double(), latent=sample.latent.double())


def trainer_of(place: Path, folder: Path, engine: Engine, **changes) -> Trainer:
    """Return a training from a folder; in float64 where that is the default."""
    place.mkdir(exist_ok=True, parents=True)
    settings = with_units(settings_of(folder, **changes), tiny())
    trainer = make_trainer(settings, tiny(), engine, place, torch.device("cpu"))
    if torch.get_default_dtype() == torch.float64:
        trainer.stream.mocks = Double(trainer.stream.mocks)
        validation = Double(open_folder(settings, tiny())).take(torch.arange(N))
        trainer._make_validation = lambda: validation
    return trainer


@pytest.fixture
def double(monkeypatch):
    monkeypatch.setattr(loop, "REPORT_EVERY", 5)
    monkeypatch.setattr(loop, "AGREE_EVERY", 5)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def on_ranks(place: Path, folder: Path, size: int, until: int | None = None, **changes) -> list[Trainer]:
    meeting = Meeting(size)
    engines = [Thread(rank, meeting) for rank in range(size)] if size > 1 else [Serial()]
    trainers = [trainer_of(place, folder, engine, **changes) for engine in engines]
    wanted = ExitCode.OK if until is None else ExitCode.INCOMPLETE
    assert on_threads(trainers, lambda trainer: train(trainer, until)) == [wanted] * size
    return trainers


def test_any_number_of_ranks_and_a_break_give_the_same_curve(tmp_path, written, double):
    """Two ranks that are stopped and go on as three, then as one, end where one rank ends that was never stopped."""
    (alone,) = on_ranks(tmp_path / "one", written, 1, steps=15)
    on_ranks(tmp_path / "several", written, 2, until=5, steps=15)
    on_ranks(tmp_path / "several", written, 3, until=10, steps=15)
    (last,) = on_ranks(tmp_path / "several", written, 1, steps=15)
    assert [record["step"] for record in last.history.records if record["kind"] == "train"] == [5, 10, 15]
    for one, other in zip(last.history.records, alone.history.records, strict=True):
        assert one == pytest.approx(other, abs=1e-9)
    for name, value in alone.network.state_dict().items():
        torch.testing.assert_close(last.network.state_dict()[name], value, rtol=0, atol=1e-9)


def test_a_checkpoint_knows_its_folder_by_what_is_in_it(tmp_path, written):
    on_ranks(tmp_path / "run", written, 1, until=2)
    moved = shutil.copytree(written, tmp_path / "moved")
    (again,) = on_ranks(tmp_path / "run", moved, 1, until=4)
    assert again.step == 4
    other = trainer_of(tmp_path / "run", write(tmp_path / "other", tiny(), seed=30), Serial())
    with pytest.raises(PlanMismatch, match="other settings"):
        other.resume()
    other.stream.close()
    simulated = settings_of("", stream={})
    assert simulated.digest != with_folder(settings_of(written), tiny()).digest


def test_units_come_from_the_folder(written, monkeypatch):
    monkeypatch.setattr("lensscan.train.units.UNITS_SAMPLE", N)
    read, made = (
        with_units(settings_of(folder, stream=stream), tiny())
        for folder, stream in ((written, {"folder": str(written)}), ("", {}))
    )
    assert read.network == made.network
    monkeypatch.setattr("lensscan.train.units.UNITS_SAMPLE", N // 2)
    assert with_units(settings_of(written), tiny()).network != made.network


def refusal(folder: Path, recipe: Recipe, **changes) -> str:
    with pytest.raises(ConfigError) as raised:
        open_folder(settings_of(folder, **changes), recipe)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_folders_that_do_not_fit_are_refused(tmp_path, written):
    assert "name the recipe that wrote it" in refusal(written, tiny(lens={"shear": 0.2}))
    assert "g r i z at 24 pixels of 0.263 arcsec, and the recipe tiny makes g r i z at 32" in refusal(
        written, tiny(size=32)
    )
    assert "the recipe tiny makes g r at 24" in refusal(written, tiny(bands=["g", "r"], reference="r"))
    assert "at 24 pixels of 0.2 arcsec" in refusal(written, tiny(pixel_scale=0.2))
    assert "no complete folder" in refusal(tmp_path / "none", tiny())
    assert "packs or FITS" in refusal(write(tmp_path / "hdf5", tiny(), n=4, layout="hdf5"), tiny())
    loose = write(tmp_path / "fits", tiny(), n=4, layout="fits")
    loose = refusal(loose, tiny(bands=["g", "r"], reference="r", size=32))
    assert "fits: holds g r i z, and the recipe tiny makes g r at 32 pixels" in loose, "sizes of files are not known"
    modular = {"kind": "modular", "denoise_width": 8, "denoise_depth": 1, "deblend_widths": [8, 8], "latent": 4}
    assert "without noise" in refusal(written, tiny(), network=modular)


@pytest.mark.parametrize(
    ("seed", "what"),
    [
        (TESTSETS["full"], "sealed test set full"),
        (TESTSETS["tune"], "test set tune"),
        (12, "calibration"),
        (15, "ensem"),
    ],
)
def test_sets_that_are_kept_for_something_else_are_refused(tmp_path, seed, what):
    folder = write(tmp_path / "kept", tiny(), seed=seed, n=2)
    message = refusal(folder, tiny())
    assert f"of seed {seed}, kept for" in message
    assert what in message
    assert "--seed 10" in message


def test_a_mock_that_cannot_be_read_is_named(tmp_path, written, opened):
    folder = shutil.copytree(written, tmp_path / "hurt")
    mocks = opened(folder)
    with open(folder / "packs" / "0001.fits", "r+b") as file:
        file.truncate(4000)
    assert len(mocks.take(torch.arange(20)).images) == 20
    with pytest.raises(ConfigError, match=r"mock 20 \(.*0001.fits\) is unreadable; run lensscan simulate again"):
        mocks.take(torch.tensor([3, 20]))


@pytest.mark.parametrize("stream", [{"split": True, "chunk": 64}, {"chunks": 3}])
def test_settings_that_mean_nothing_with_a_folder_are_refused(stream):
    with pytest.raises(ConfigError, match=r"leave out stream\.split and stream\.chunks"):
        settings_of("", stream={"folder": "mocks", **stream})
    with pytest.raises(ConfigError, match="found in the folder"):
        settings_of("", stream={"folder": "mocks", "content": "abc"})


def curve_of_engine(backend: str, folder: str, precision: str, mocks: str) -> None:
    """Train from the mocks with an engine, in a process of its own; leaves the loss curve of rank 0."""
    leave_curve(lambda engine, place: trainer_of(place, Path(mocks), engine, steps=50), backend, folder, precision)


@pytest.mark.mpi
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["torch", pytest.param("horovod", marks=needs_horovod)])
def test_fifty_steps_on_two_ranks(tmp_path, written, backend):
    """Fourteen epochs of 72 mocks, in float64."""
    alone = curve("train.test_folder", tmp_path / "one", "none", 1, "float64", str(written))
    found = curve("train.test_folder", tmp_path / "two", backend, 2, "float64", str(written))
    assert found == pytest.approx(alone, abs=1e-6)
