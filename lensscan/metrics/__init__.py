"""Metrics of detection, posteriors and calibration; pure numpy."""
