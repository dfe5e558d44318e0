"""Seeds that one purpose has for itself: mocks of these are never trained on."""

from __future__ import annotations

__all__ = [
    "DIFFICULTY",
    "DIFFICULTY_NEW",
    "ENSEMBLE",
    "MOCK_SURVEY",
    "PURPOSES",
    "REALISM",
    "RESERVED",
    "TESTSETS",
]

PURPOSES = {"training": 0, "validation": 1, "calibration": 2, "evaluation": 3, "novelty": 4}
"""Offsets of the seeds of a training: purpose p of a training with seed s uses mocks of seed ``10 s + PURPOSES[p]``."""
TESTSETS = {"smoke": 718_281_828, "medium": 264_575_131, "full": 314_159_265, "tune": 577_215_664}
REALISM = 141_421_356
"""Of the realism gate and of the comparison of modular networks."""
DIFFICULTY = 173_205_081
DIFFICULTY_NEW = 223_606_798
MOCK_SURVEY = 244_948_974
ENSEMBLE = 15
"""Ends on 5: trainings take seeds that end on 0 to 4."""
RESERVED = {
    TESTSETS["smoke"]: "the sealed test set smoke",
    TESTSETS["medium"]: "the sealed test set medium",
    TESTSETS["full"]: "the sealed test set full",
    TESTSETS["tune"]: "the test set tune",
    REALISM: "the realism gate",
    DIFFICULTY: "the difficulty of a set",
    DIFFICULTY_NEW: "the difficulty of a set",
    MOCK_SURVEY: "the mock survey",
    ENSEMBLE: "the calibration of ensembles",
}
"""What each of them is for."""
