"""The index of the embeddings: built, tuned, opened and asked."""
