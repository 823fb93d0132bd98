"""Where collections come from: one file a source, each a function from params to a `Collection`."""
