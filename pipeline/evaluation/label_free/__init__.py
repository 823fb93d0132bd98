"""What embeddings say of themselves: how they lie, and what they hold together."""
