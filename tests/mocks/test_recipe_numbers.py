"""Recipes agree with the published numbers: defaults of the code, TOML files and the table of the field's facts."""

import dataclasses
import re
from pathlib import Path

import pytest

from lensscan.config import find, read_toml
from lensscan.mocks import tables
from lensscan.mocks.recipes import load_recipe

FIELD = Path(__file__).resolve().parents[2] / ".." / "shared" / "reference" / "FIELD.md"


@pytest.fixture(scope="module")
def field():
    if not FIELD.is_file():
        pytest.skip("../shared is absent: the field's published numbers cannot be read")
    return FIELD.read_text(encoding="utf-8")


def section(text, start, stop):
    begin = text.index(start)
    return text[begin : text.index(stop, begin)]


def numbers(text, pattern):
    found = re.search(pattern, text)
    assert found, pattern
    return [float(v.replace(",", "")) for v in found.groups()]


def test_hezaveh_table(field):
    table, recipe = section(field, "### 1.1", "### 1.2"), load_recipe("hezaveh2017")
    assert numbers(table, r"image \| (\d+)×\d+, ([\d.]+)\"/px") == [recipe.size, recipe.pixel_scale]
    assert tuple(numbers(table, r"θE \| U\(([\d.]+), ([\d.]+)\)")) == recipe.lens.theta_E
    assert recipe.lens.flat_fraction == 1
    assert tuple(numbers(table, r"\|e\|=1−q ~ U\(([\d.]+),([\d.]+)\)")) == recipe.lens.one_minus_q
    z_lens, z_source = numbers(table, r"z_l=([\d.]+), z_s=([\d.]+)")
    assert (recipe.lens.z[0], recipe.source.z_median) == (z_lens, z_source)
    assert recipe.lens.z[1] == 0
    assert recipe.lens.shear == 0
    assert numbers(table, r"shift to U\(±([\d.]+)\"\)") == [recipe.frame.wide]
    low, high, share = numbers(table, r"PSF \| Gaussian σ ~ U\(([\d.]+), ([\d.]+)\) px, p=([\d.]+)")
    pixel_fwhm = 2.354820045 * recipe.pixel_scale
    assert recipe.psf.uniform == pytest.approx((low * pixel_fwhm, high * pixel_fwhm), rel=1e-3)
    assert (recipe.psf.share, recipe.psf.kind) == (share, "gaussian")
    low, high, share = numbers(table, r"peak counts U\((\d+),(\d+)\), p=([\d.]+)")
    assert recipe.noise.electrons == (share, low, high)
    low, high, white = numbers(table, r"rms U\(([\d.]+),([\d.]+)\)×peak; (\d+)% white")
    assert recipe.noise.relative == (low, high)
    assert recipe.noise.white == white / 100
    most, radius, share, flux = numbers(table, r"masks \| 1..(\d+) circles r=([\d.]+)\", p=([\d.]+), ≤(\d+)% arc flux")
    assert recipe.effects.masks == (share, most, radius, flux / 100)
    low, high, share = numbers(table, r"amplitude U\((\d+),([\d.]+)\)×peak, p=([\d.]+)")
    assert recipe.effects.cosmic_rays[0] == share
    assert recipe.effects.cosmic_rays[3] == high
    assert recipe.effects.unit == "peak"
    assert numbers(table, r"zero bias N\(0,([\d.]+)\)") == [recipe.effects.zero_bias]
    assert tuple(numbers(table, r"half-size ([\d.]+)–([\d.]+)\"")) == recipe.source.uniform_radius
    assert numbers(table, r"keep if magnification >(\d+)") == [recipe.label.magnification]
    assert numbers(table, r"image × N\(0,([\d.]+)\)") == [recipe.galaxy.residual]


def test_argonne_and_slpipe_lines(field):
    text = section(field, "### 1.2", "### 1.3")
    size, scale = numbers(text, r"(\d+)×45, ([\d.]+)\"/px")
    collett = section(field, "### 1.9", "## 2.")
    (gain,) = numbers(collett, r"gain ([\d.]+)")
    (sky,) = numbers(section(field, "**C. argonne", "**D."), r"sky ([\d.]+)")
    for name, seconds, exposures in (("argonne2017", 3000, 100), ("argonne2017-single", 30, 1)):
        recipe = load_recipe(name)
        assert (recipe.size, recipe.pixel_scale, recipe.bands) == (size, scale, ("g",))
        per_electron = 10 ** (0.4 * (31.4 - 30)) * 25 / seconds / gain
        assert recipe.band["g"].poisson == pytest.approx(per_electron, rel=0.02)
        electrons = 10 ** (0.4 * (30 - sky)) * scale**2 / 25 * seconds * gain + exposures * 10.0**2
        assert recipe.band["g"].sigma[1] == pytest.approx(electrons**0.5 * per_electron, rel=0.02)
        assert recipe.classes == {"lens": 0.5, "unlensed_source": 0.5}
    slpipe = section(field, "### 1.3", "### 1.4")
    assert numbers(slpipe, r"images \*\*(\d+)×111") == [load_recipe("slpipe2019").size]
    assert load_recipe("slpipe2019").bands == tuple("gri")


def test_holismokes_and_challenge_lines(field):
    recipe, text = load_recipe("holismokes4"), section(field, "### 1.4", "### 1.5")
    assert numbers(text, r"stamps (\d+)×64 at ([\d.]+)\"") == [recipe.size, recipe.pixel_scale]
    assert recipe.lens.theta_E[0] == 0.5
    assert recipe.lens.flat_fraction == 1
    ground, text = load_recipe("lens-challenge-ground"), section(field, "**E. challenge-like**", "Real samples")
    assert numbers(text, r"(\d+)², (\d) bands") == [ground.size, len(ground.bands)]
    assert ground.bands == ("u", "g", "r", "i")
    assert numbers(text, r"PSF ([\d.]+)\" FWHM") == [load_recipe("lens-challenge-space").band["VIS"].fwhm[0]]
    negatives = numbers(text, r"\*\*(\d+)% negatives\*\*")[0] / 100
    space = load_recipe("lens-challenge-space").classes
    assert 1 - (space["lens"] + space["undetectable"]) / sum(space.values()) == pytest.approx(negatives)
    assert numbers(text, r"source i<(\d+)") == [load_recipe("lens-challenge-space").source.mag[1]]


def test_rubin_has_its_own_pixels_and_the_slides_theirs():
    assert load_recipe("lsst-gri").pixel_scale == 0.2
    assert {load_recipe(name).pixel_scale for name in ("argonne2017", "argonne2017-single", "slpipe2019")} == {0.18}


def test_jacobs_classes_and_sets():
    assert set(load_recipe("des-jacobs2019").classes) == {"lens", "elliptical", "painted", "real"}
    assert set(load_recipe("des-jacobs2019-a").classes) == {"lens", "elliptical"}
    assert set(load_recipe("des-jacobs2019-b").classes) == {"painted", "real"}


@pytest.mark.parametrize(
    ("table", "name"), [(tables.LensPrior, "lens"), (tables.LabelRule, "label"), (tables.PsfPrior, "psf")]
)
def test_defaults_of_the_code_are_the_numbers_of_the_base_recipe(table, name):
    """A recipe that leaves a number out gets that of des-griz, or a switch that is off."""
    written = read_toml(find("recipes", "des-griz"))[name]
    for item in dataclasses.fields(table):
        if item.name in written and not item.metadata.get("late"):
            value = tuple(written[item.name]) if isinstance(written[item.name], list) else written[item.name]
            assert value == item.default, item.name
