"""What a run computes on: the device, the precision, and how a step is recorded on a GPU."""
