"""Tensors in, tensors out; no model, no table."""
