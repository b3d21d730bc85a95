"""Scores, distances and their chances, in numpy, scipy and scikit-learn; no jax."""
