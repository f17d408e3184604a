"""Penstock's data plane."""
