"""Questions: each takes models, repeats a measurement and gives a table."""
