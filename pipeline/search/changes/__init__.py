"""An index folder that grows and shrinks: each change is a new generation beside the old one."""
