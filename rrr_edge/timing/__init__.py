"""Clocks, interleaving, statistics, this machine, progress callbacks."""
