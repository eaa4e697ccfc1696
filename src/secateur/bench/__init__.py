"""Measuring: timings that can be compared, the machine they were taken on, and the peers beside us."""
