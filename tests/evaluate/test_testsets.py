"""Test sets: sealed by hash, refused in one line when anything differs, the same stamps however they are read."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from lensscan.config import read_toml
from lensscan.errors import ConfigError, VerificationError
from lensscan.evaluate import testsets
from lensscan.evaluate.testsets import (
    SEEDS,
    SIZES,
    Seal,
    SealedSet,
    hash_truth,
    open_testset,
    read_seals,
    seal,
    truth_hash,
)
from lensscan.mocks.dataset import Dataset
from lensscan.mocks.recipes import load_recipe, make_recipe
from lensscan.mocks.simulate import simulate
from lensscan.survey.stamps import Frame

RECIPE = "des-griz"
QUICK = ("hezaveh2017-64",)
"""Recipes whose 100,000 systems are drawn in seconds."""
CHECKED = [(r, n) for r, sets in read_seals().items() for n in sets if n == "smoke" or r in QUICK]
FRAME = Frame(("g", "r", "i", "z"), 64, 0.263, 1)
TRUTH = {
    "theta_E": np.array([1.0, np.nan, 0.7]),
    "is_lens": np.array([True, False, True]),
    "klass": np.array([0, 2, 0]),
}


def gather(testset, frame=FRAME, rows=16):
    images, labels = [], []
    for (slot,), truth in testset.batches((frame,), rows):
        images.append(slot.images[: slot.n].copy())
        labels.append(np.array(truth["is_lens"]))
    return np.concatenate(images), np.concatenate(labels)


def test_the_hash_sees_every_column_and_forgives_the_last_bits():
    digest = hash_truth(TRUTH)
    assert digest == hash_truth(dict(reversed(TRUTH.items())))
    assert digest == hash_truth(TRUTH | {"theta_E": TRUTH["theta_E"] * (1 + 1e-15)})
    assert digest != hash_truth(TRUTH | {"theta_E": TRUTH["theta_E"] * (1 + 1e-4)})
    assert digest != hash_truth(TRUTH | {"theta_E": np.array([1.0, 0.9, 0.7])})
    assert digest != hash_truth(TRUTH | {"klass": np.array([0, 3, 0])})
    assert digest != hash_truth(TRUTH | {"more": np.zeros(3)})
    assert digest != hash_truth({key: column for key, column in TRUTH.items() if key != "klass"})


def test_seed_and_number_are_in_the_hash():
    recipe = load_recipe(RECIPE)
    digest = truth_hash(recipe, 5, 12)
    assert digest == truth_hash(recipe, 5, 12)
    assert digest != truth_hash(recipe, 6, 12)
    assert digest != truth_hash(recipe, 5, 13)


def test_seeds_are_nobody_elses():
    assert len(set(SEEDS.values())) == len(SEEDS)
    assert min(SEEDS.values()) > 1_000_000, "trainings use small seeds"


@pytest.fixture
def sealed(monkeypatch):
    """Seal 24 rows as ``des-griz:smoke``; returns what changes the seal."""
    recipe = load_recipe(RECIPE)
    values = {"n": 24, "seed": 99, "recipe": recipe.digest, "sha256": truth_hash(recipe, 99, 24)}

    def change(**changes):
        monkeypatch.setattr(testsets, "read_seals", lambda: {RECIPE: {"smoke": Seal(**(values | changes))}})

    change()
    return change


def truth_of(testset):
    parts = [{k: np.array(v) for k, v in truth.items()} for _, truth in testset.batches((FRAME,), 7)]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def test_a_sealed_set_verifies(sealed):
    testset = open_testset("des-griz:smoke")
    assert testset.sealed
    truth = truth_of(testset)
    assert len(truth["is_lens"]) == 24
    testset.verify(truth)


def test_another_truth_is_refused(sealed):
    sealed(sha256="0" * 64)
    testset = open_testset("des-griz:smoke")
    with pytest.raises(VerificationError, match=r"the seal says 000000000000.*seal again") as raised:
        testset.verify(truth_of(testset))
    assert "\n" not in str(raised.value)


def test_another_recipe_is_refused_before_anything_is_made(sealed):
    sealed(recipe="f" * 64)
    with pytest.raises(VerificationError, match="the recipe has changed"):
        open_testset("des-griz:smoke")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("des-griz", "no folder of that name; of recipe des-griz there are des-griz:smoke"),
        ("des-griz:huge", r": of recipe des-griz there are .*, des-griz:tune\[:N\]"),
        ("des-griz:tune:many", "of recipe des-griz there are"),
        ("des-griz:tune:\u00b2", "of recipe des-griz there are"),
        ("des-griz:tune:0", "of recipe des-griz there are"),
        ("des-gris", "no folder of that name; no recipe des-gris either; did you mean 'des-griz'"),
        ("des-gris:huge", ": no recipe des-gris; did you mean 'des-griz'"),
        ("packs", "no folder of that name; no recipe packs either; write RECIPE:smoke"),
        ("mocks/of/last/week", "no such folder"),
        ("des-griz:smoke:10", "of recipe des-griz there are"),
        ("des-grizz:tune", "did you mean 'des-griz'"),
        ("des-jacobs2019-b:full", "--seal des-jacobs2019-b"),
    ],
)
def test_unknown_sets_are_one_line(text, words):
    with pytest.raises(ConfigError, match=words) as raised:
        open_testset(text)
    assert "\n" not in str(raised.value)
    assert str(raised.value).count(":smoke") < 3, "not all that is sealed"


def test_tuning_has_another_seed_and_no_seal():
    testset = open_testset("des-griz:tune:40")
    assert (testset.n, testset.sealed) == (40, False)
    assert testset.seed not in (SEEDS["smoke"], SEEDS["full"])
    assert open_testset("des-griz:tune").n == 10_000


def test_a_set_without_the_models_bands_or_pixels_is_refused():
    testset = open_testset("des-griz:tune:4")
    with pytest.raises(ConfigError, match="the model wants y"):
        testset.check(Frame(("g", "y"), 64, 0.263, 1))
    with pytest.raises(ConfigError, match=r"pixels.*--transfer compares") as raised:
        testset.check(Frame(("g",), 64, 0.2, 1))
    assert "--resample" not in str(raised.value), "an option of other commands"


def test_folders_give_the_stamps_of_the_recipe(tmp_path):
    recipe = load_recipe(RECIPE)
    Dataset(recipe, SEEDS["tune"], 24, tmp_path / "packs", "packs").write()
    Dataset(recipe, SEEDS["tune"], 24, tmp_path / "loose", "fits").write()
    direct, labels = gather(open_testset("des-griz:tune:24"))
    for kind in ("packs", "loose"):
        folder = open_testset(str(tmp_path / kind))
        folder.check(FRAME)
        images, found = gather(folder)
        np.testing.assert_array_equal(found, labels)
        np.testing.assert_allclose(images, direct, rtol=1e-4, atol=1e-3)
        again = folder.stamps(np.array([5, 2]), FRAME)
        np.testing.assert_array_equal(again.images[:2], images[[5, 2]])
        assert not folder.sealed
    with pytest.raises(ConfigError, match="the model wants y"):
        folder.check(Frame(("g", "y"), 64, 0.263, 1))


def test_a_folder_that_is_not_complete_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="run lensscan simulate"):
        open_testset(str(tmp_path))
    with pytest.raises(ConfigError, match=r"no complete folder of mocks \(no truth\.fits\)"):
        open_testset(str(tmp_path))
    (tmp_path / "packs").mkdir()
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(ConfigError, match=f"a part of a folder of mocks; give {tmp_path}$"):
        open_testset(str(tmp_path / "packs"))


def damaged(tmp_path, file, change):
    """Return the message about a folder whose table has been changed."""
    Dataset(load_recipe(RECIPE), SEEDS["tune"], 4, tmp_path, "packs").write()
    table = Table.read(tmp_path / file)
    change(table).write(tmp_path / file, overwrite=True)
    with pytest.raises(ConfigError) as raised:
        open_testset(str(tmp_path))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_catalog_in_another_order_is_refused(tmp_path):
    """Stamps are found through the catalog, labels through the truth: row by row they must be the same objects."""
    assert "same ids in the same order" in damaged(tmp_path / "order", "catalog.fits", lambda table: table[::-1])
    assert "same ids in the same order" in damaged(tmp_path / "short", "catalog.fits", lambda table: table[:3])
    without = damaged(
        tmp_path / "column", "catalog.fits", lambda table: table[[n for n in table.colnames if n != "ra"]]
    )
    assert "catalog.fits lacks ra" in without
    lacks = damaged(tmp_path / "label", "truth.fits", lambda table: table[["id", "theta_E"]])
    assert "truth.fits lacks is_lens" in lacks


def test_an_empty_set_is_refused(tmp_path):
    from lensscan.evaluate.predict import predict

    Dataset(load_recipe(RECIPE), SEEDS["tune"], 4, tmp_path, "packs").write()
    for name in ("truth.fits", "catalog.fits"):
        Table.read(tmp_path / name)[:0].write(tmp_path / name, overwrite=True)
    with pytest.raises(ConfigError, match="holds no stamps"):
        predict([], open_testset(str(tmp_path)))


def test_stamps_in_hdf5_are_refused(tmp_path):
    Dataset(load_recipe(RECIPE), 1, 4, tmp_path, "hdf5").write()
    with pytest.raises(ConfigError, match="packs or FITS"):
        open_testset(str(tmp_path))


def test_missing_pixels_reach_the_network():
    recipe = make_recipe({"base": "des-griz", "name": "holes", "effects": {"masks": [1.0, 3, 0.5, 0.9]}}, "test")
    testset = SealedSet("holes", recipe, 24, 3)
    mocks = simulate(recipe, seed=3, n=24)
    assert mocks.missing is not None
    assert mocks.missing.any()
    (slot,), _ = next(testset.batches((FRAME,), 24))
    np.testing.assert_array_equal(slot.mask[:24], mocks.missing.numpy())
    assert (slot.images[:24][slot.mask[:24]] == 0).all()


def test_single_rows_and_other_frames():
    testset = open_testset("des-griz:tune:20")
    images, _ = gather(testset)
    again = testset.stamps(np.array([7, 3]), FRAME)
    np.testing.assert_allclose(again.images[:2], images[[7, 3]], rtol=1e-4, atol=1e-2)
    small, _ = gather(testset, Frame(("i", "g"), 48, 0.263, 1))
    np.testing.assert_array_equal(small, images[:, [2, 0], 8:-8, 8:-8])
    (slot,), _ = next(testset.batches((Frame(("g",), 70, 0.263, 1),), 8))
    assert slot.masked
    assert slot.mask[0, 0].sum() == 70**2 - 64**2


def test_seal_prints_what_the_catalog_reads(monkeypatch, tmp_path):
    monkeypatch.setitem(SIZES, "smoke", 8)
    path = tmp_path / "seals.toml"
    path.write_text(seal(RECIPE, ("smoke",)))
    found = read_toml(path)[RECIPE]["smoke"]
    recipe = load_recipe(RECIPE)
    assert found == {"n": 8, "seed": SEEDS["smoke"], "recipe": recipe.digest, "sha256": found["sha256"]}
    assert found["sha256"] == truth_hash(recipe, SEEDS["smoke"], 8)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "name"), CHECKED)
def test_shipped_seals_hold(recipe, name):
    kept = read_seals()[recipe][name]
    assert kept.n == SIZES[name]
    loaded = load_recipe(recipe)
    assert loaded.digest == kept.recipe, f"run lensscan evaluate --seal {recipe}"
    assert truth_hash(loaded, kept.seed, kept.n) == kept.sha256
