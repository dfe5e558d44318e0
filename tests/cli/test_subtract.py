"""lensscan subtract, as a user runs it, on stamps written here and on real lenses."""

from __future__ import annotations

from pathlib import Path

import fitsio
import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.wcs import WCS
from PIL import Image

from lensscan.cli.main import main
from lensscan.lenslight import stage
from lensscan.nets.intermediate import Inspector
from lensscan.nets.model import Card, Model, build_network, make_trivial

BANDS, SIZE = ("g", "r", "i"), 48
DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
SURVEY = """
name = "toy"
pixel_scale = 0.25
stamp_size = 48
[bands.g]
zero_point = 31.4
fwhm = 1.0
[bands.r]
zero_point = 31.4
fwhm = 0.9
[bands.i]
zero_point = 31.4
fwhm = 0.8
"""


def write_stamp(path: Path, bands: tuple[str, ...] = BANDS, seed: int = 0) -> None:
    """A red galaxy with a blue arc, and a WCS with an odd rotation."""
    rng = np.random.default_rng(seed)
    step = 0.25 / 3600
    header = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0}
    header |= {"CRPIX1": 20.0, "CRPIX2": 30.0}
    header |= {"CD1_1": -0.6 * step, "CD1_2": 0.8 * step, "CD2_1": 0.8 * step, "CD2_2": 0.6 * step}
    y, x = (np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2) * 0.25
    radius = np.hypot(x, y)
    with fitsio.FITS(str(path), "rw", clobber=True) as file:
        for band in bands:
            k = BANDS.index(band)
            width = (1.0, 0.9, 0.8)[k] / 2.355
            galaxy = (60, 250, 500)[k] * np.exp(-0.5 * radius**2 / (0.5**2 + width**2))
            arc = (60, 50, 50)[k] * np.exp(-0.5 * ((radius - 1.8) ** 2) / (0.1**2 + width**2)) * (x > 0)
            image = galaxy + arc + rng.normal(0, 2, (SIZE, SIZE))
            file.write(image.astype("f4"), extname=band.upper(), header=header)


@pytest.fixture
def survey(tmp_path: Path) -> str:
    path = tmp_path / "toy.toml"
    path.write_text(SURVEY)
    return str(path)


def picture_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def run(*words: object) -> int:
    return main(["subtract", *(str(word) for word in words)])


def test_planes_and_picture_of_every_stamp(survey: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / f"s{k}.fits" for k in range(2)]
    for k, file in enumerate(files):
        write_stamp(file, seed=k)
    out = tmp_path / "out"
    assert run(*files, "--survey", survey, "-o", out) == 0
    assert capsys.readouterr().out.splitlines() == ["s0: ica", "s1: ica"]
    assert sorted(path.name for path in out.iterdir()) == ["s0-light.fits", "s0.png", "s1-light.fits", "s1.png"]
    assert picture_size(out / "s0.png")[0] > 400
    with fits.open(out / "s0-light.fits") as hdus:
        assert [hdu.name for hdu in hdus[1:]] == [f"{b.upper()}_{p}" for b in BANDS for p in ("LENS", "ARCS")]
        assert hdus[0].header["METHOD"] == "ica"
        assert hdus["G_ARCS"].header["PSF_FWHM"] == pytest.approx(1.0)
        assert hdus["G_ARCS"].header["BUNIT"] == "nJy"
        given = fitsio.read(str(files[0]), ext="G")
        np.testing.assert_allclose(hdus["G_LENS"].data + hdus["G_ARCS"].data, given, atol=1e-3)
        half = hdus["G_ARCS"].data[18:30, 28:34].sum(), hdus["G_ARCS"].data[18:30, 14:20].sum()
        assert half[0] > 5 * abs(half[1]), "the arc is on the right"
        sky = WCS(hdus["G_ARCS"].header).pixel_to_world_values([3.0, 40.0], [5.0, 44.0])
    truth = WCS(fits.getheader(files[0], "G")).pixel_to_world_values([3.0, 40.0], [5.0, 44.0])
    np.testing.assert_allclose(sky, truth, atol=0.01 / 3600)


def test_all_methods_on_one_page_and_one_band_by_itself(
    survey: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_stamp(tmp_path / "s.fits")
    assert run(tmp_path / "s.fits", "--survey", survey, "--method", "all", "-o", tmp_path / "a") == 0
    assert run(tmp_path / "s.fits", "--survey", survey, "--bands", "i", "-o", tmp_path / "b") == 0
    assert capsys.readouterr().out.splitlines() == ["s: ica", "s: isophotes"]
    heights = [picture_size(tmp_path / folder / "s.png")[1] for folder in "ab"]
    assert heights[0] > 1.7 * heights[1]
    with fits.open(tmp_path / "b" / "s-light.fits") as hdus:
        assert [hdu.name for hdu in hdus[1:]] == ["I_LENS", "I_ARCS"]


def test_bad_stamps_cost_one_line_each_and_the_others_are_written(
    survey: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_stamp(tmp_path / "good.fits")
    write_stamp(tmp_path / "single.fits", ("r",))
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.ones((SIZE, SIZE)), name="K")]).writeto(tmp_path / "other.fits")
    (tmp_path / "bad.fits").write_text("no FITS")
    files = [tmp_path / f"{name}.fits" for name in ("good", "bad", "gone", "single", "other")]
    assert run(*files, "--survey", survey, "--method", "ica", "-o", tmp_path / "out") == 3
    said = capsys.readouterr()
    assert said.out.splitlines() == ["good: ica"]
    lines = said.err.splitlines()
    assert len(lines) == 4
    assert "bad.fits: not a readable FITS file" in lines[0]
    assert "gone.fits: no such file" in lines[1]
    assert "single.fits: ICA needs two bands" in said.err
    assert "other.fits: bands are missing, g, r, i are looked for; name those it has by --bands" in said.err


def test_the_line_says_why_it_was_not_ica(
    survey: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "MISMATCH", -1.0)
    write_stamp(tmp_path / "s.fits")
    for number, method in enumerate(("auto", "all")):
        assert run(tmp_path / "s.fits", "--survey", survey, "--method", method, "-o", tmp_path / str(number)) == 0
    assert capsys.readouterr().out.splitlines() == ["s: isophotes (ICA: psf_mismatch)"] * 2


def test_a_radius_within_the_psf_is_refused(survey: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_stamp(tmp_path / "s.fits")
    assert run(tmp_path / "s.fits", "--survey", survey, "--radius", "0.95", "-o", tmp_path / "out") == 1
    assert "s.fits: --radius 0.95 is below the PSF's FWHM of 1 arcsec" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "s.fits", "--survey", survey, "--radius", "0.95", "--bands", "i", "-o", tmp_path / "out") == 0


def test_names_need_not_be_ascii(survey: str, tmp_path: Path) -> None:
    write_stamp(tmp_path / "gr\xfcn.fits")
    assert run(tmp_path / "gr\xfcn.fits", "--survey", survey, "-o", tmp_path / "out") == 0
    header = fits.getheader(tmp_path / "out" / "gr\xfcn-light.fits")
    assert header["SOURCE"].endswith("gr\\xfcn.fits")


def test_nothing_done_is_an_error(survey: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "gone.fits", "--survey", survey, "-o", tmp_path / "out") == 1
    assert "none of 1 stamps" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bands", "g,K"], "no band 'K'"),
        (["--bands", ","], "empty list"),
        (["--radius", "0"], "must be positive"),
        (["--radius", "nan"], "must be positive"),
        (["--radius", "0.1"], "--radius 0.1 is below one pixel, 0.25 arcsec"),
        (["--method", "magic"], "magic"),
    ],
)
def test_usage_errors_are_one_line(
    words: list[str], said: str, survey: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_stamp(tmp_path / "s.fits")
    assert run(tmp_path / "s.fits", "--survey", survey, "-o", tmp_path / "out", *words) == 2
    text = capsys.readouterr().err
    assert said in text
    assert text.count("\n") == 1


def test_two_stamps_of_one_name_are_refused(survey: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("a/s.fits", "b/s.fits", "--survey", survey, "-o", tmp_path / "out") == 2
    assert "two stamps are named s" in capsys.readouterr().err


def modular(path: Path, **changed: object) -> Model:
    """A modular network with random weights, in the toy survey's bands and pixels."""
    shape = {
        "kind": "modular",
        "widths": [8, 8],
        "depths": [0, 0],
        "hidden": 8,
        "squeeze": 4,
        "latent": 4,
        "samples": 4,
    }
    shape |= {"denoise_width": 8, "denoise_depth": 1, "deblend_widths": [8, 8]} | changed
    torch.manual_seed(2)
    module = build_network(shape, 3, 48)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    card = Card("tiny", shape, BANDS, 48, 0.25, min_bands=2, fwhm_range={"g": (0.9, 2.0), "r": (0.5, 0.7)})
    model = Model(card, module.eval())
    model.save(path)
    return model


def test_modules_of_a_network_take_stamps_apart(
    survey: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The planes are what the network makes of the stamp as a scan would show it."""
    model = modular(tmp_path / "tiny.safetensors")
    write_stamp(tmp_path / "s.fits")
    write_stamp(tmp_path / "gi.fits", ("g", "i"))
    words = ("--survey", survey, "--method", "module", "--model", tmp_path / "tiny.safetensors", "-o", tmp_path / "out")
    assert run(tmp_path / "s.fits", tmp_path / "gi.fits", *words) == 0
    assert capsys.readouterr().out.splitlines() == ["s: module, out_of_range", "gi: module"], "the seeing in r is not"
    given = np.stack([fitsio.read(str(tmp_path / "s.fits"), ext=band.upper()) for band in BANDS])
    made = Inspector(model)(given[None], fwhm=np.array([[1.0, 0.9, 0.8]]))
    with fits.open(tmp_path / "out" / "s-light.fits") as hdus:
        names = [f"{band.upper()}_{plane}" for band in BANDS for plane in ("LENS", "ARCS", "DENOISED")]
        assert [hdu.name for hdu in hdus[1:]] == names
        assert hdus[0].header["METHOD"] == "module"
        planes = {
            name: np.stack([hdus[f"{b.upper()}_{name}"].data for b in BANDS]) for name in ("LENS", "ARCS", "DENOISED")
        }
        assert hdus["G_ARCS"].header["PSF_FWHM"] == 1.0
        assert "CRVAL1" in hdus["G_ARCS"].header
    np.testing.assert_allclose(planes["ARCS"], made.flux(made.deblended)[0], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(planes["DENOISED"], made.flux(made.denoised)[0], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(planes["LENS"] + planes["ARCS"], given, atol=1e-3)
    assert np.abs(planes["ARCS"]).max() > 1, "a module that makes nothing tests nothing"
    assert picture_size(tmp_path / "out" / "s.png")[0] > 400
    with fits.open(tmp_path / "out" / "gi-light.fits") as hdus:
        assert {hdu.name[0] for hdu in hdus[1:]} == {"G", "I"}


def test_without_a_denoiser_there_is_no_such_plane(survey: str, tmp_path: Path) -> None:
    modular(tmp_path / "tiny.safetensors", denoise_width=0)
    write_stamp(tmp_path / "s.fits")
    words = ("--survey", survey, "--method", "module", "--model", tmp_path / "tiny.safetensors", "-o", tmp_path / "out")
    assert run(tmp_path / "s.fits", *words) == 0
    with fits.open(tmp_path / "out" / "s-light.fits") as hdus:
        assert [hdu.name for hdu in hdus[1:3]] == ["G_LENS", "G_ARCS"]
        assert not [hdu.name for hdu in hdus if "DENOISED" in hdu.name]


@pytest.mark.parametrize(
    ("model", "words", "code", "said"),
    [
        ("", (), 2, "needs --model M"),
        ("tiny", ("--bands", "g"), 2, "does not look at --bands"),
        ("tiny", ("--size", "48"), 2, "does not look at --size"),
        ("tiny", ("--method", "ica"), 2, "--model is for --method module"),
        ("tiny", ("--survey", "hst-acs"), 1, "needs 2 of the bands g r i"),
        ("tiny", ("--survey", "des"), 2, "do not fit the model's 0.25"),
        ("plain", (), 1, "is not modular"),
        ("whole", (), 1, "no module that deblends"),
    ],
)
def test_models_and_stamps_that_do_not_fit_are_refused_in_a_line(
    model: str,
    words: tuple[str, ...],
    code: int,
    said: str,
    survey: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_stamp(tmp_path / "s.fits")
    modular(tmp_path / "tiny.safetensors")
    modular(tmp_path / "whole.safetensors", deblend_widths=[])
    make_trivial(BANDS, 48, 0.25).save(tmp_path / "plain.safetensors")
    given = ("--model", tmp_path / f"{model}.safetensors") if model else ()
    command = (tmp_path / "s.fits", "--survey", survey, "--method", "module", *given, "-o", tmp_path / "out", *words)
    assert run(*command) == code
    text = capsys.readouterr().err
    assert said in text
    assert text.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "theta_E"), [("SDSSJ0029-0055", 0.96), ("SDSSJ0956+5100", 1.33)])
def test_arcs_of_a_real_lens_stand_where_its_einstein_radius_is(name: str, theta_E: float, tmp_path: Path) -> None:
    file = DATA / "lenses" / "hst_acs_f814w" / f"{name}.fits"
    if not file.is_file():
        pytest.skip(f"no real lens at {file}")
    assert run(file, "--survey", "hst-acs", "--size", 102, "--radius", 2.5, "-o", tmp_path) == 0
    with fits.open(tmp_path / f"{name}-light.fits") as hdus:
        arcs, lens = hdus["F814W_ARCS"].data, hdus["F814W_LENS"].data
        x, y = hdus[0].header["LENS_X"], hdus[0].header["LENS_Y"]
    py, px = (np.mgrid[:102, :102] - 50.5) * 0.05
    radius = np.hypot(px - x, py - y)
    core = radius < 0.09
    assert abs(arcs[core].sum()) < 0.05 * lens[core].sum()
    ring, outside = np.abs(radius - theta_E) < 0.25, radius > 2.3
    noise = 1.4826 * np.median(np.abs(arcs[outside] - np.median(arcs[outside])))
    assert arcs[ring].sum() > 20 * noise * np.sqrt(ring.sum())
