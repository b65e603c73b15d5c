"""Lowering of a trained module to the file of each engine."""
