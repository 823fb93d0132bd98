"""Linear classifiers of frozen features: which images they learn from, and how they are fitted."""
