"""Any image files to one table of embeddings: listed, cut into parts, embedded part after part, joined."""
