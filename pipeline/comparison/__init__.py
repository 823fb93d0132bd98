"""Which of two runs is better, by how much, and whether that is beyond chance."""
