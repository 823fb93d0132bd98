"""`lookalike index`: an index folder, built, grown, shrunk and looked at without the chain."""
