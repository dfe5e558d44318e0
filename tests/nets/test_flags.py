"""Flags of the merge."""

import numpy as np

from lensscan.nets.flags import UNCLEAN, merge_flags
from lensscan.schema import Flag


def columns(n=1, **values):
    defaults = {"theta_E": 1.5, "theta_E_err": 0.1, "theta_E_q16": 1.4, "theta_E_q84": 1.6}
    defaults |= {"x": 0.0, "y": 0.0, "logit_std": 0.1, "ood": np.nan}
    return {name: np.full(n, value, np.float32) for name, value in (defaults | values).items()}


def flags(fwhm=((0.9, 1.2),), prior=None, **values):
    return Flag(int(merge_flags(columns(**values), np.array(fwhm, np.float32), prior)[0]))


def test_each_condition_sets_its_flag_alone():
    assert flags() == 0
    assert flags(theta_E=0.4) == Flag.THETA_E_UNRESOLVED
    assert flags(theta_E=0.4, fwhm=((np.nan, 0.7),)) == 0
    assert flags(theta_E_err=0.6) == Flag.POSTERIOR_WIDE
    assert flags(x=0.8, y=-0.8) == Flag.OFF_CENTRE
    assert flags(logit_std=2.5) == Flag.MEMBERS_DISAGREE
    assert flags(ood=1.5) == Flag.OOD
    assert flags(prior=(0.5, 3.0)) == 0
    assert flags(prior=(0.5, 1.6)) == Flag.POSTERIOR_AT_PRIOR
    assert flags(prior=(1.4, 3.0)) == Flag.POSTERIOR_AT_PRIOR


def test_what_is_not_known_sets_nothing():
    nothing = dict.fromkeys(columns(), np.nan)
    assert flags(fwhm=((np.nan, np.nan),), prior=(0.5, 3.0), **nothing) == 0
    assert flags(theta_E=0.1, theta_E_err=0.01, fwhm=((),)) == 0


def test_resampling_alone_is_clean():
    assert int(Flag.RESAMPLED) & int(UNCLEAN) == 0
    assert int(Flag.MASKED | Flag.OOD) & int(UNCLEAN)
