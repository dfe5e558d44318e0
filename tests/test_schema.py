"""Statuses, flags and the columns of the output."""

import astropy.units as u
import numpy as np
import pytest
from astropy.io.votable.ucd import check_ucd

from lensscan.schema import COLUMNS, Flag, Status, find_column, flag_names, status_name


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_every_column_is_described_in_standard_words(column):
    u.Unit(column.unit, format="fits")
    assert not column.ucd or check_ucd(column.ucd, check_controlled_vocabulary=True)
    assert column.description
    if column.dtype:
        np.dtype(column.dtype)


def test_names_are_unique():
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names)


def test_templates_are_filled_in():
    assert find_column("fwhm_g").description == "Seeing in g; NaN if unknown"
    assert find_column("cat_x").name == "cat_x"
    assert find_column("logit_std").description.startswith("Standard deviation")
    assert find_column("logit_des-griz").ucd == "stat.likelihood"
    assert find_column("unheard_of").unit == ""


def test_status_names():
    assert status_name(Status.SCORED) == "scored"
    assert status_name(12) == "failed:wrong_shape"
    assert all(status < 256 for status in Status)


def test_flag_names():
    assert flag_names(Flag.EDGE | Flag.OOD) == ["ood", "edge"]
    assert flag_names(0) == []
