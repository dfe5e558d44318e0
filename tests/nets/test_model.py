"""Model files: every damage is one line, and scores in memory are those of a scan."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from astropy import units as u
from safetensors.torch import save_file

import lensscan
from lensscan.errors import ConfigError, ModelError
from lensscan.metrics.calibration import Calibration
from lensscan.nets.model import KEY, Card, Model, build_network, make_trivial
from lensscan.nets.scorer import Scorer
from lensscan.schema import Flag
from lensscan.survey.stamps import allocate

ARCHITECTURE = {"kind": "resnet", "widths": [8, 16], "depths": [1, 1], "hidden": 16, "squeeze": 8}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    card = Card(
        "tiny",
        ARCHITECTURE,
        ("g", "r"),
        32,
        0.263,
        calibration=Calibration("platt", 0.5, -1.0),
        sigma_range={"g": (1.0, 30.0), "r": (1.0, 30.0)},
        evaluation={"auroc": 0.9, "nested": {"a": [1, 2]}},
    )
    return Model(card, build_network(ARCHITECTURE, 2, 32).eval())


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def test_card_survives(model, saved):
    loaded = Model.load(saved).card
    before, after = (json.loads(json.dumps(card.to_mapping())) for card in (model.card, loaded))
    assert after == before
    assert len(loaded.hash) == 64
    assert model.frame() == Model.load(saved).frame()


def test_a_model_says_in_a_line_what_it_is(model):
    weights = sum(weight.numel() for weight in model.module.parameters())
    assert repr(model) == f"<Model tiny, version 1: g r, 32 pixels of 0.263 arcsec; {weights:,} weights>"


def rewrite(path, change):
    stored = Model.load(path)
    header = {"format": 1, "card": json.loads(json.dumps(stored.card.to_mapping()))}
    weights = {key: value.contiguous() for key, value in stored.module.state_dict().items()}
    metadata = change(header, weights)
    save_file(weights, str(path), metadata if isinstance(metadata, dict) else {KEY: json.dumps(header)})


DAMAGE = {
    "format": (lambda h, w: h.update(format=99), "format 99, this lensscan reads 1; upgrade lensscan"),
    "format 0": (lambda h, w: h.update(format=0), "format 0, this lensscan reads 1; the file is older or damaged"),
    "format text": (lambda h, w: h.update(format="2"), "format 2, this lensscan reads 1; the file is older or damaged"),
    "no format": (lambda h, w: h.pop("format") is None, "format None, this lensscan reads 1; the file is older"),
    "header": (lambda h, w: {KEY: "[1]"}, "its card cannot be read"),
    "no card": (lambda h, w: {"other": "x"}, "without a lensscan card"),
    "not json": (lambda h, w: {KEY: "{"}, "damaged"),
    "card key": (lambda h, w: h["card"].update(sized=3), "unknown key 'sized'"),
    "card type": (lambda h, w: h["card"].update(size="big"), "must be int"),
    "card empty": (lambda h, w: h["card"].update(bands=[]), "without bands"),
    "architecture": (lambda h, w: h["card"]["architecture"].update(kind="vit"), "unknown architecture 'vit'"),
    "architecture key": (lambda h, w: h["card"]["architecture"].update(wide=1), "unknown key 'wide'"),
    "missing weights": (lambda h, w: w.pop("stem.weight").zero_() is h, "stem.weight"),
    "extra weights": (lambda h, w: w.update(extra=torch.zeros(1)), "extra"),
    "shape": (lambda h, w: w.update({"stem.shift": torch.zeros(3)}), "stem.shift"),
    "slope": (lambda h, w: h["card"]["calibration"].update(a=-1.0), "slope"),
    "views": (lambda h, w: h["card"].update(views=3), "views"),
    "min_bands": (lambda h, w: h["card"].update(min_bands=5), "min_bands"),
    "scale": (lambda h, w: h["card"].update(posterior_scale=[1.0] * 6 + [0.0]), "must be positive and finite"),
    "scale of views": (lambda h, w: h["card"].update(posterior_scale_views=[-1.0] * 7), "must be positive and finite"),
    "scale too large": (lambda h, w: h["card"].update(posterior_scale=[float("inf")] * 7), "posterior_scale"),
    "not a number": (
        lambda h, w: w["stem.weight"].view(-1)[:1].fill_(np.nan) is h,
        "holds weights that are not finite",
    ),
    "infinite": (lambda h, w: w["stem.shift"].fill_(-np.inf) is h, "holds weights that are not finite"),
    "other weights": (lambda h, w: h.update(weights_sha256="0" * 64), "its weights are not those that were saved"),
}


@pytest.mark.parametrize("name", sorted(DAMAGE))
def test_damage_is_one_line(saved, name):
    change, words = DAMAGE[name]
    rewrite(saved, change)
    with pytest.raises(ModelError) as caught:
        Model.load(saved)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert str(saved) in message, "the message must name the file"


@pytest.mark.parametrize("wrong", [{"min_bands": 3}, {"views": 2}, {"posterior_scale": (1.0,)}, {"bands": ()}])
def test_a_card_that_could_not_be_loaded_is_not_saved(model, tmp_path, wrong):
    path = tmp_path / "wrong.safetensors"
    with pytest.raises(ModelError, match=str(path)):
        Model(dataclasses.replace(model.card, **wrong), model.module).save(path)
    assert not list(tmp_path.iterdir())


def test_weights_that_could_not_be_loaded_are_not_saved(model, tmp_path):
    module = copy.deepcopy(model.module)
    module.stem.weight.data[0] = np.nan
    with pytest.raises(ModelError, match="weights of tiny are not finite"):
        Model(model.card, module).save(tmp_path / "wrong.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_flipped_bit_of_the_weights_is_told(model, saved):
    """A safetensors file has no checksum: another weight, finite and of the right shape, would score."""
    data = bytearray(saved.read_bytes())
    data[-3] ^= 1
    saved.write_bytes(data)
    with pytest.raises(ModelError, match="weights are not those that were saved; the file is damaged, get it anew"):
        Model.load(saved)


def test_a_file_of_before_the_digest_of_weights_loads(model, saved):
    rewrite(saved, lambda header, weights: None)
    for name, weight in Model.load(saved).module.state_dict().items():
        torch.testing.assert_close(weight, model.module.state_dict()[name])


def test_the_same_model_is_saved_as_the_same_bytes(model, saved, tmp_path):
    stated = Model.load(saved).save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()
    assert stated == hashlib.sha256(saved.read_bytes()).hexdigest()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\xff" * 4096])
def test_not_a_model_file(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a safetensors file"):
        Model.load(path)


def test_truncated_file(saved):
    saved.write_bytes(saved.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="not a safetensors file"):
        Model.load(saved)


def test_unknown_name_lists_the_shipped():
    with pytest.raises(ConfigError, match="shipped are"):
        lensscan.load_model("des-gri")
    with pytest.raises(ConfigError, match="no file"):
        lensscan.load_model("/nowhere/x.safetensors")


def images(n=70, side=32, seed=2):
    return np.random.default_rng(seed).normal(0, 10, (n, 2, side, side)).astype(np.float32)


def test_score_is_bit_equal_to_the_scorer(model):
    stamps = images()
    table = model.score(stamps, fwhm=[1.0, np.nan], prevalence=1e-3)
    slot = allocate(64, model.frame())
    slot.images[:6], slot.present[:6], slot.fwhm[:6] = stamps[64:], True, (1.0, np.nan)
    slot.close(6)
    expected = Scorer([model], "cpu", 64).submit(slot).result()
    assert np.array_equal(table["logit_raw"][64:], expected["logit"][:6, 0])
    assert np.array_equal(table["logit"], 0.5 * table["logit_raw"].astype(float) - 1)
    odds = np.log(1e-3 / 0.999)
    np.testing.assert_allclose(table["p_lens"], 1 / (1 + np.exp(-(table["logit"] + odds))), rtol=1e-5)
    assert table["theta_E"].unit == u.arcsec
    assert table["theta_E_q975"].unit == u.arcsec
    assert table["e1"].unit is None
    assert table["cov"].shape == (70, 28)
    assert (table["flags"] == 0).all()


def test_larger_stamps_are_cropped_and_the_origin_follows(model):
    small = images()
    even, odd = np.zeros((70, 2, 40, 40), np.float32), np.zeros((70, 2, 41, 41), np.float32)
    even[:, :, 4:36, 4:36] = small
    odd[:, :, 4:36, 4:36] = small
    tables = [model.score(stamps) for stamps in (small, even, odd)]
    for table in tables[1:]:
        assert np.array_equal(table["logit"], tables[0]["logit"])
    np.testing.assert_allclose((tables[1]["x"] - tables[0]["x"]).value, 0, atol=1e-6)
    np.testing.assert_allclose((tables[2]["x"] - tables[0]["x"]).value, -0.263 / 2, atol=1e-6)
    np.testing.assert_allclose((tables[2]["sy"] - tables[0]["sy"]).value, -0.263 / 2, atol=1e-6)


def test_smaller_stamps_and_nan_are_masked(model):
    table = model.score(images(3, 20))
    assert np.isfinite(table["logit"]).all()
    assert len(set(table["logit"])) == 3, "the noise is that of what is there, and the stamps differ"
    assert (table["flags"] == Flag.MASKED).all()
    stamps = images(3)
    stamps[0, 0, 5, 5] = np.nan
    masked = np.zeros(stamps.shape, bool)
    masked[0, 0, 5, 5] = True
    same = model.score(np.nan_to_num(stamps, nan=1e3), mask=masked)
    assert np.array_equal(model.score(stamps)["logit"], same["logit"])


def test_what_a_scan_would_fail_has_no_score(model):
    stamps = images(4)
    stamps[1] = np.nan
    stamps[2, :, :20] = np.nan
    table = model.score(stamps)
    for name in ("logit", "theta_E", "snr"):
        assert np.isnan(table[name]).tolist() == [False, True, True, False], name
    assert np.array_equal(table["logit"][[0, 3]], model.score(images(4))["logit"][[0, 3]])
    with pytest.raises(ModelError, match=r"15 x 15 pixels .* 32; give larger"):
        model.score(images(2, 15))
    with pytest.raises(ModelError, match=r"fwhm has shape \(3,\)"):
        model.score(images(4), fwhm=[1.0, 1.0, 1.0])


def test_p_lens_without_prevalence_is_nan(model):
    assert np.isnan(model.score(images(2))["p_lens"]).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mask": np.zeros((2, 32, 32), bool)}, r"mask has shape \(2, 32, 32\), not \(2, 2, 32, 32\)"),
        ({"present": np.ones(2, bool)}, r"present has shape \(2,\), not \(2, 2\)"),
        ({"fwhm": np.ones((2, 1))}, r"fwhm has shape \(2, 1\), not \(2,\) or \(2, 2\)"),
        ({"sigma": [1.0, 2.0, 3.0]}, r"sigma has shape \(3,\), not \(2,\) or \(2, 2\)"),
    ],
)
def test_what_numpy_would_stretch_over_other_rows_is_refused(model, given, words):
    """A mask (n, H, W) of as many stamps as bands would be taken for one of bands."""
    with pytest.raises(ModelError, match=rf"^model [^\n]*: {words}$"):
        model.score(images(2), **given)


def test_wrong_bands_are_refused(model):
    with pytest.raises(ModelError, match="bands g, r"):
        model.score(np.zeros((3, 4, 32, 32)))
    with pytest.raises(ModelError, match="prevalence"):
        model.score(images(2), prevalence=2.0)


def test_no_stamps(model):
    assert len(model.score(np.zeros((0, 2, 32, 32)))) == 0


def test_trivial_round_trip(tmp_path):
    trivial = make_trivial("gr", 32, 0.2)
    trivial.save(tmp_path / "t.safetensors")
    stamps = images(5)
    assert np.array_equal(Model.load(tmp_path / "t.safetensors").score(stamps)["logit"], stamps[:, 0, 16, 16])
