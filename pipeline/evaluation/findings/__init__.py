"""What is wrong with a collection, as its embeddings show it: copies, leaks, strangers and labels."""
