"""The console script `lookalike`, a file a command."""
