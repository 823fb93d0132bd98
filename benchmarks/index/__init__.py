"""An index folder that changes, and the kinds of index beside each other."""
