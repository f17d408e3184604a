"""Stores: tiers below L1, one file each."""
