"""The console script `lookalike`, a file a command."""

from pipeline.errors import leave_on_ctrl_c

leave_on_ctrl_c()
