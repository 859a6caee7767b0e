"""Tensors in, tensors out: what the numbers are. Knows no model and no table."""
