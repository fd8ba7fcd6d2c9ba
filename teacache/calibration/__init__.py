"""Calibration: what the cache should do on one model, measured on a few runs of it.

    sketch           tensors reduced to a few numbers that keep inner products
    recorder         records an uncached run, reduced
    fit              the polynomial from indicator to residual
    schedule_search  which steps to compute, by dynamic programming
    override         what a run does in place of the user's settings meanwhile
    shards           the runs, each sampled apart, and what is kept of them
    trials           what is tried for a number of computed steps, result by result
    journal          the runs so far, so that an interrupted calibration can be resumed
    calibrator       the whole calibration, from the first run to the saved profile
    jobs, worker     the runs as jobs of a pool of workers
    results          a calibration in words

The engine imports none of it: hosts and commands import the modules that they need.
"""
