"""The files of an index folder: what each holds, and that they are of one generation."""
