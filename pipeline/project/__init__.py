"""A project of one's own: a folder with params.yaml and the chain, run by the installed package."""
