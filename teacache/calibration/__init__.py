"""Calibration: what the cache should do on one model, learned from a few runs of it.

    sketch      tensors reduced to a few numbers that keep inner products
    recording   what is kept of an uncached run
    fit         the polynomial from indicator to residual
    planning    which steps to compute, by dynamic programming
    trial       what a run does meanwhile
    journal     the runs so far, so that an interrupted calibration goes on
    session     all of it, in order
    keeping     the same, saved as a profile

`run` knows none of it: hosts and commands import the modules that they need.
"""
