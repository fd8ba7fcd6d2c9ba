"""Plots of runs, calibrations, comparisons and sweeps, drawn with Pillow alone."""
