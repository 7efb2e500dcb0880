"""Servers that the same model runs behind, for comparison."""
