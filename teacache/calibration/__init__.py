"""Calibration: what the cache should do on one model, measured on a few runs of it.

    sketch           tensors reduced to a few numbers that keep inner products
    recorder         records an uncached run, reduced
    fit              the polynomial from indicator to residual
    schedule_search  which steps to compute, by dynamic programming
    override         what a run does in place of the user's settings meanwhile
    journal          the runs so far, so that an interrupted calibration can be resumed
    calibrator       the whole calibration, from the first run to the saved profile
    results          a calibration in words

The engine imports none of it: hosts and commands import the modules that they need.
"""
