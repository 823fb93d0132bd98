"""An index folder of embeddings in files, whoever made them: without the chain, and without an encoder."""
