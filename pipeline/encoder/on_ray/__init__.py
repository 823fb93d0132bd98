"""The same embeddings by Ray Data's workers, on this machine or on a cluster."""
