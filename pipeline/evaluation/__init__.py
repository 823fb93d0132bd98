"""How good a representation is, measured on arrays alone: no files, no networks."""
