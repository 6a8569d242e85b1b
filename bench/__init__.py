"""Measurements: each writes ratios of one run, with the absolute beside them, to bench/results."""
