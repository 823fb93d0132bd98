"""The backbone trained further on a share of the labels: which images, what learns, and the loop."""
