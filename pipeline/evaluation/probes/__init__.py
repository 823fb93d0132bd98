"""Classifiers of frozen features: which images they learn from, how they are fitted, and how they do."""
