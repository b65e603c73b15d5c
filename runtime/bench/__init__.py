"""Measuring: engines in turn (`timing`), the core operator by operator (`profile`), and the machine it is done on.

The command `edge bench` and the scripts in benchmarks/ share what is here, so that a figure means the same everywhere.
"""
