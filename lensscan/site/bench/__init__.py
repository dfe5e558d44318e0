"""Benchmarks: every figure is a ratio of rates measured in one run on one machine."""
