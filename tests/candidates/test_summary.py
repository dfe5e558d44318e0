"""What ``show`` and ``verify`` print."""

import re

import h5py
import numpy as np
import pytest
from astropy.table import QTable
from synthetic_run import make_run

from lensscan.candidates.file import read_candidates
from lensscan.candidates.summary import WIDTH, _cut_off, _expected, clean_leaders, format_table, probability, summary
from lensscan.cli.main import main
from lensscan.nets.flags import UNCLEAN
from lensscan.scan.merge import MergeSettings, merge
from lensscan.schema import flag_names


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    ra = np.repeat(np.linspace(0, 300, 100), 2)
    run = make_run(tmp_path_factory.mktemp("run"), 200, ra=ra, dec=np.full(200, 45.0))
    provenance = {
        "command": "lensscan scan RUN.toml",
        "models": [{"name": "demo", "version": "1", "sha256": "ab" * 32}],
    }
    merge(run.plan, run.folder, run.out, MergeSettings(top=60, prevalence=1e-3), run.cards, provenance)
    return run.out


def test_summary_says_it_all(output):
    text = "\n".join(summary(output, 5))
    assert "n_catalog = 217 = 17 cut + " in text
    assert "cut flow" in text

    for word in ("g - i", "blank", "unreadable", "top 5 of", "lensscan scan RUN.toml", "abababababab", "plan hash"):
        assert word in text
    assert len(summary(output, 0)) == len(summary(output, 5)) - 6
    assert "no signal at all" in text
    assert re.search(r"^first blank: .+", text, re.M)
    ranking = text.split("\n\n")[3].splitlines()
    assert len(ranking) == 7
    assert all(len(line) <= 120 for line in ranking)


def expected(p_lens, p_survey):
    columns = {"group_rank": np.ones(len(p_lens), int), "flags": np.zeros(len(p_lens), int)}
    return _expected(clean_leaders(QTable(columns | {"p_lens": p_lens, "p_survey": p_survey})))


def test_the_number_of_expected_lenses_is_the_sum_of_probabilities(output):
    table = clean_leaders(read_candidates(output))
    text = "\n".join(summary(output, 5))
    total = f"{np.asarray(table['p_lens'], float)[:10].sum():.3g}"
    assert re.search(rf"^ *10 +{re.escape(total)} +-$", text, re.M), text
    p = np.full(150, 0.2)
    lines = expected(p, 1.9 * p)
    assert [line.split() for line in lines[3:]] == [["10", "2", "3.8"], ["100", "20", "38"], ["150", "30", "57"]]
    assert expected(p[:0], p[:0]) == expected(np.full(5, np.nan), np.full(5, np.nan)) == []


def test_probabilities_that_disagree_are_warned_of():
    p = np.where(np.arange(150) < 20, 0.2, 0.01)
    (warning,) = (line for line in expected(p, np.where(p > 0.1, 0.45, 0.01)) if line.startswith("warning"))
    assert "in the top 10, 100 they" in warning
    assert "factor of 2" in warning


@pytest.mark.parametrize(
    ("p", "text"), [(8.1234e-4, "0.00081"), (3.21e-7, "3.2e-07"), (0.5, "0.500"), (1.0, "1.000"), (float("nan"), "-")]
)
def test_small_probabilities_keep_two_digits(p, text):
    assert probability(p) == text


def test_leaders_only_and_clean(output):
    table = read_candidates(output)
    leaders = clean_leaders(table)
    assert len(leaders) < len(table)
    assert (leaders["group_rank"] == 1).all()
    clean = clean_leaders(table, clean=True)
    assert ((np.asarray(clean["flags"]) & int(UNCLEAN)) == 0).all()
    assert 0 < len(clean) < len(leaders)
    flags = [int(bits) & int(UNCLEAN) for bits in leaders["flags"]]
    names = [name for bits in flags for name in flag_names(bits)]
    said = next(line for line in summary(output, clean=True) if line.startswith("flagged: "))
    assert sorted(said.removeprefix("flagged: ").split(", ")) == sorted(f"{k} {names.count(k)}" for k in set(names))
    assert not any(line.startswith("flagged: ") for line in summary(output))


def test_table_is_aligned():
    lines = format_table(["name", "n"], [["a", "1"], ["bcd", "1,000"]])
    assert lines == ["name      n", "a         1", "bcd   1,000"]


def test_long_lines_end_with_a_whole_name():
    line = "1  a  " + " ".join(f"flag_number_{k}" for k in range(20))
    cut = _cut_off(line)
    assert len(cut) <= WIDTH
    assert cut.endswith(" ...")
    assert cut.removesuffix(" ...").split() == line.split()[: len(cut.split()) - 1]
    assert len(cut) > WIDTH - len(" flag_number_10")
    assert _cut_off(line[:WIDTH]) == line[:WIDTH]


def test_show_command(output, capsys):
    assert main(["show", str(output), "-n", "3", "--clean"]) == 0
    assert "top 3 of" in capsys.readouterr().out
    assert main(["show", str(output), "--provenance"]) == 0
    assert '"command": "lensscan scan RUN.toml"' in capsys.readouterr().out
    assert main(["show", str(output) + ".no"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_verify_command(output, tmp_path, capsys):
    assert main(["verify", str(output)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("complete: n_catalog = 217")
    assert "content hash: " in printed
    broken = tmp_path / "broken.h5"
    broken.write_bytes(output.read_bytes())
    with h5py.File(broken, "r+") as h5:
        h5["scores/snr"][0] = -1
    assert main(["verify", str(broken)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "content hash" in error
    assert main(["verify", str(tmp_path / "none.h5")]) == 1
    (tmp_path / "none.h5.run").mkdir()
    assert main(["verify", str(tmp_path / "none.h5")]) == 75
    assert "unfinished" in capsys.readouterr().err


def test_export_command(output, tmp_path, capsys):
    assert main(["export", str(output), "--to", "csv", "-o", str(tmp_path / "x.csv")]) == 0
    assert "60 candidates" in capsys.readouterr().out
    assert (tmp_path / "x.csv").exists()
