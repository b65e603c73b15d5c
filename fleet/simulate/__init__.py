"""Simulated devices: honest ones, thousands to a process, for trying a fleet out and for measuring it."""
