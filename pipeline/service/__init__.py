"""An index folder, open to people and programs over HTTP."""
