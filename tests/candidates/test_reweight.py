"""Another prior under stored posteriors: analytic cases, coverage in another population, refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable
from synthetic_run import make_run

from lensscan.candidates import reweight as module
from lensscan.candidates.export import export
from lensscan.candidates.file import read_candidates
from lensscan.candidates.reweight import LEAST, SAMPLES, NewPrior, new_prior, reweight, weighted_columns
from lensscan.candidates.sampling import Summaries
from lensscan.cli.main import main
from lensscan.errors import ConfigError, OutputError
from lensscan.metrics.scalemixture import GAUSSIAN, ScaleMixture
from lensscan.nets.card import ThetaPrior
from lensscan.nets.latent import TRIANGLE
from lensscan.nets.model import Model, make_trivial
from lensscan.nets.posterior import posterior_columns
from lensscan.scan.merge import MergeSettings, merge
from lensscan.schema import PARAMETERS, Flag

WIDTH = np.array([0.15, 0.05, 0.05, 0.04, 0.04, 0.1, 0.1])
CENTRE, OLD, NEW = 0.2, (0.2, 0.35), (-0.2, 0.20)
"""ln theta_E: (mean, standard deviation) of lenses in training and in another population."""


def gaussian(t, mean, sd):
    return np.exp(-0.5 * ((t - mean) / sd) ** 2) / sd


def gaussian_prior(old=OLD, new=NEW) -> NewPrior:
    grid = np.linspace(-2.5, 2.5, 4001)
    return NewPrior("test", np.exp(-2.5), np.exp(2.5), grid, gaussian(grid, *old), gaussian(grid, *new))


def posteriors(mean, correlation=0.5):
    """Return what the table says of posteriors about ln theta_E = `mean`, and its columns."""
    n = len(mean)
    latent = np.zeros((n, 1, 7))
    latent[:, 0, 0], latent[:, 0, 1] = mean, 0.1
    full = np.diag(WIDTH**2)
    full[0, 5] = full[5, 0] = correlation * WIDTH[0] * WIDTH[5]
    packed = np.tile([full[i, j] for i, j in TRIANGLE], (n, 1, 1))
    columns = posterior_columns(latent, packed)
    return Summaries.of(columns), columns


def table_of(columns, n):
    table = QTable({"id": np.arange(n), "flags": np.zeros(n, np.uint32), "fwhm_g": np.full(n, 0.9) * u.arcsec})
    for name, values in columns.items():
        plain = name.startswith("e") or name == "cov"
        table[name] = values if plain else values * u.arcsec
    table["logit_std"] = table["ood"] = np.full(n, np.nan)
    return table


def test_the_same_prior_gives_the_posterior_back():
    said, columns = posteriors(np.linspace(-0.3, 0.5, 9))
    found = weighted_columns(said, [str(k) for k in range(9)], gaussian_prior(new=OLD))
    assert (found["ess"] == SAMPLES).all()
    for name in (*PARAMETERS, "theta_E_q025", "theta_E_q16", "theta_E_q84", "theta_E_q975"):
        error = columns[name.split("_q")[0] + "_err"]
        assert np.abs(found[name] - columns[name]).max() < 0.02 * error.max(), name
    for name in PARAMETERS:
        np.testing.assert_allclose(found[f"{name}_err"], columns[f"{name}_err"], rtol=0.02)


@pytest.mark.parametrize("kind", ["tail", "two components"])
def test_the_same_prior_gives_back_what_is_no_gaussian(kind):
    n, tails, weight = 9, (ScaleMixture((0.8, 0.2), (0.84, 1.64)),), None
    latent = np.zeros((n, 1, 7))
    latent[:, 0, 0], latent[:, 0, 1] = np.linspace(-0.3, 0.5, n), 0.1
    packed = np.tile([np.diag(WIDTH**2)[i, j] for i, j in TRIANGLE], (n, 1, 1))
    if kind == "two components":
        latent, packed = np.repeat(latent, 2, axis=1), np.concatenate([packed / 9, packed * 1.5], axis=1)
        tails, weight = (GAUSSIAN, GAUSSIAN), np.tile([0.8, 0.2], (n, 1))
    columns = posterior_columns(latent, packed, weight, tails)
    found = weighted_columns(Summaries.of(columns), [str(k) for k in range(n)], gaussian_prior(new=OLD))
    for name in (*PARAMETERS, "theta_E_q025", "theta_E_q16", "theta_E_q84", "theta_E_q975"):
        error = columns[name.split("_q")[0] + "_err"]
        assert (np.abs(found[name] - columns[name]) < 0.02 * error).all(), name
    for name in PARAMETERS:
        np.testing.assert_allclose(found[f"{name}_err"], columns[f"{name}_err"], rtol=0.012, err_msg=name)
    gaussian = np.sqrt(columns["cov"][:, TRIANGLE.index((3, 3))]) * 0.9945 / columns["x_err"]
    assert (gaussian > (1.015 if kind == "tail" else 1.3)).all(), "as one Gaussian they would be as much wider"


def test_a_gaussian_ratio_is_the_analytic_posterior():
    mean = np.linspace(-0.2, 0.4, 7)
    said, _ = posteriors(mean)
    found = weighted_columns(said, [str(k) for k in range(7)], gaussian_prior())
    precision = WIDTH[0] ** -2 - OLD[1] ** -2 + NEW[1] ** -2
    centre = (mean / WIDTH[0] ** 2 - OLD[0] / OLD[1] ** 2 + NEW[0] / NEW[1] ** 2) / precision
    sd = precision**-0.5
    np.testing.assert_allclose(np.log(found["theta_E"]), centre, atol=0.02 * sd)
    width = 0.5 * (np.log(found["theta_E_q84"]) - np.log(found["theta_E_q16"]))
    np.testing.assert_allclose(width, 0.9945 * sd, rtol=0.03)
    # sx hangs on ln theta_E with slope 0.5 WIDTH[5] / WIDTH[0], the rest of its spread is untouched
    slope = 0.5 * WIDTH[5] / WIDTH[0]
    np.testing.assert_allclose(found["sx"], slope * (centre - mean), atol=0.08 * WIDTH[5])
    variance = 0.75 * WIDTH[5] ** 2 + slope**2 * sd**2
    np.testing.assert_allclose(found["cov"][:, TRIANGLE.index((5, 5))], variance, rtol=0.08)
    np.testing.assert_allclose(found["x"], 0.0, atol=0.08 * WIDTH[3])
    # Kish's number for two Gaussians, by quadrature
    t = np.linspace(-2.5, 2.5, 4001)
    for k, ess in enumerate(found["ess"]):
        weight, base = gaussian(t, *NEW) / gaussian(t, *OLD), gaussian(t, mean[k], WIDTH[0])
        exact = SAMPLES * (weight * base).sum() ** 2 / ((weight**2 * base).sum() * base.sum())
        assert ess == pytest.approx(exact, rel=0.05)


def covered(columns, truth, low, high):
    return float(((truth > columns[low]) & (truth < columns[high])).mean())


@pytest.mark.slow
def test_coverage_in_another_population_is_restored():
    """Truths of NEW measured with error; a posterior under OLD misses them, the re-weighted one does not."""
    rng, n = np.random.default_rng(4), 4000
    truth = rng.normal(*NEW, n)
    noise = 0.25
    seen = truth + noise * rng.normal(size=n)
    precision = noise**-2 + OLD[1] ** -2
    centre, sd = (seen / noise**2 + OLD[0] / OLD[1] ** 2) / precision, precision**-0.5
    packed = np.zeros((n, 1, 28))
    for i in range(7):
        packed[:, 0, TRIANGLE.index((i, i))] = WIDTH[i] ** 2 if i else sd**2
    latent = np.zeros((n, 1, 7))
    latent[:, 0, 0] = centre
    before = posterior_columns(latent, packed)
    after = weighted_columns(Summaries.of(before), [str(k) for k in range(n)], gaussian_prior())
    error = {level: 3 * np.sqrt(level * (1 - level) / n) for level in (0.68, 0.95)}
    assert covered(before, np.exp(truth), "theta_E_q16", "theta_E_q84") < 0.64
    assert covered(after, np.exp(truth), "theta_E_q16", "theta_E_q84") == pytest.approx(0.68, abs=error[0.68])
    assert covered(after, np.exp(truth), "theta_E_q025", "theta_E_q975") == pytest.approx(0.95, abs=error[0.95])


def test_a_row_does_not_depend_on_its_neighbours():
    mean = np.linspace(-0.4, 0.6, 150)
    said, _ = posteriors(mean)
    ids = [f"J{k}" for k in range(150)]
    whole = weighted_columns(said, ids, gaussian_prior())
    some = np.array([3, 77, 149])
    part = weighted_columns(said[some], [ids[k] for k in some], gaussian_prior())
    for name, values in part.items():
        np.testing.assert_array_equal(values, whole[name][some], err_msg=name)


def test_few_effective_samples_are_refused_and_counted():
    _, columns = posteriors(np.array([0.0, 0.1, 1.6, np.nan]))
    table = table_of(columns, 4)
    table["flags"][:] = Flag.OOD | Flag.POSTERIOR_WIDE
    report = reweight(table, gaussian_prior(new=(-0.2, 0.1)))
    assert (report.posteriors, report.refused) == (3, 1)
    assert any("1 posteriors refused" in line and str(LEAST) in line for line in report.lines())
    assert 0 < table["ess"][2] < LEAST
    assert np.isnan(table["ess"][3])
    for name in (*PARAMETERS, "theta_E_err", "theta_E_q975"):
        assert np.isnan(np.asarray(table[name], float)[2:]).all()
        assert np.isfinite(np.asarray(table[name], float)[:2]).all()
    assert np.isnan(table["cov"][2]).all()
    assert (table["flags"] & np.uint32(Flag.OOD)).all(), "flags that do not follow from the posterior stay"
    assert not (table["flags"] & np.uint32(Flag.POSTERIOR_WIDE)).any()
    assert table.meta["posterior_prior"] == "test"
    assert table["theta_E"].unit == u.arcsec


def test_all_refused_is_an_error():
    _, columns = posteriors(np.array([1.6]))
    with pytest.raises(OutputError, match="all 1 posteriors have fewer than 100"):
        reweight(table_of(columns, 1), gaussian_prior(new=(-0.2, 0.1)))


def training(natural=True) -> ThetaPrior:
    grid = np.linspace(np.log(0.5), np.log(3.0), 97)
    return ThetaPrior(0.5, 3.0, tuple(np.full(97, 0.558)), tuple(np.exp(-2 * grid)) if natural else ())


def test_natural_and_uniform():
    natural, uniform = new_prior(training(), "natural"), new_prior(training(), "uniform")
    t = np.log(np.array([0.6, 1.2, 2.4]))
    np.testing.assert_allclose(natural.weight(t) / natural.weight(t)[0], [1, 0.25, 0.0625], rtol=0.01)
    np.testing.assert_allclose(uniform.weight(t) / uniform.weight(t)[0], [1, 2, 4], rtol=1e-3)
    assert (uniform.weight(np.log([0.49, 3.01])) == 0).all()
    with pytest.raises(ConfigError, match="no physical population"):
        new_prior(training(natural=False), "natural")


@pytest.mark.parametrize("name", ["p.csv", "p.toml"])
def test_a_file(tmp_path, name):
    path = tmp_path / name
    if name.endswith("csv"):
        path.write_text("# mine\ntheta_E,density\n0.0,1\n1.0,1\n2.0,0\n")
    else:
        path.write_text("theta_E = [0.0, 1.0, 2.0]\ndensity = [1, 1, 0]\n")
    prior = new_prior(training(), str(path))
    assert (prior.low, prior.high) == (0.5, 2.0)
    assert prior.outside == pytest.approx(1 / 3, abs=0.01)
    t = np.log(np.array([0.6, 0.9, 1.5]))
    np.testing.assert_allclose(prior.weight(t) / prior.weight(t)[0], [1, 1.5, 1.25], rtol=1e-3)
    assert prior.weight(np.log(2.1)) == 0


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", "theta_E,density\n1,2\n1,3\n", "theta_E,density\n1,-1\n2,1\n", "theta_E,density\n4,1\n5,1\n"]
)
def test_a_file_that_cannot_be_used(tmp_path, text):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(ConfigError, match="--prior"):
        new_prior(training(), str(tmp_path / "p.csv"))


def test_a_missing_file_and_a_missing_column_are_two_things_and_found_at_once(tmp_path):
    (tmp_path / "p.csv").write_text("theta,density\n1,2\n")
    (tmp_path / "p.toml").write_text("theta_E = [1, 2]\n")
    for name, words in (("no.csv", "no such file"), ("p.csv", "no column theta_E"), ("p.toml", "no column density")):
        with pytest.raises(ConfigError, match=words):
            export(tmp_path / "unread.h5", "csv", tmp_path / "x.csv", prior=str(tmp_path / name))


def test_the_flag_says_where_the_interval_meets_a_bound():
    _, columns = posteriors(np.log([0.42, 1.2]))
    table = table_of(columns, 2)
    reweight(table, new_prior(training(), "uniform"))
    assert [bool(f & np.uint32(Flag.POSTERIOR_AT_PRIOR)) for f in table["flags"]] == [True, False]


def test_samples_are_spread_evenly():
    assert module._points().shape == (SAMPLES, 7)
    assert len(np.unique(module._points()[:, 0])) == SAMPLES


def test_export_finds_the_prior_in_the_models_card(tmp_path, capsys):
    model = make_trivial("gri", 45, 0.263)
    model = Model(dataclasses.replace(model.card, theta_E_prior=training()), model.module)
    sha = model.save(tmp_path / "m.safetensors")
    run = make_run(tmp_path, 60)
    provenance = {"config": {"model": [str(tmp_path / "m.safetensors")]}, "models": [{"sha256": sha}]}
    merge(run.plan, run.folder, run.out, MergeSettings(top=50), run.cards, provenance)
    before = read_candidates(run.out)
    command = ["export", str(run.out), "--to", "ecsv", "-o", str(tmp_path / "x.ecsv"), "--prior", "uniform"]
    assert main(command) == 0
    assert "prior uniform of theta_E, 0.5 to 3 arcsec" in capsys.readouterr().out
    found = QTable.read(tmp_path / "x.ecsv")
    assert found.meta["posterior_prior"] == "uniform"
    fine = np.asarray(found["ess"]) >= LEAST
    assert fine.sum() > 10
    shift = (found["theta_E"] - before["theta_E"]).to_value("arcsec")[fine]
    assert np.median(shift) > 0, "a prior uniform in theta_E prefers larger lenses than one uniform in its logarithm"
    np.testing.assert_array_equal(found["logit"], before["logit"])
    model.save(tmp_path / "m.safetensors")
    other = Model(dataclasses.replace(model.card, notes="another"), model.module)
    other.save(tmp_path / "m.safetensors")
    assert main(command) == 1
    assert "is not the file that made" in capsys.readouterr().err


def test_export_refuses_without_a_known_prior(tmp_path):
    run = make_run(tmp_path, 20)
    merge(run.plan, run.folder, run.out, MergeSettings(top=50), run.cards, {})
    with pytest.raises(OutputError, match="does not say which model"):
        export(run.out, "csv", tmp_path / "x.csv", prior="uniform")
