"""The weights that a run begins and ends with, and the mean that it takes off their features."""
