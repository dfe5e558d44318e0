"""The small survey, and the content hash of its undisturbed scan in one process."""

from tiny_survey import reference, survey

__all__ = ["reference", "survey"]
