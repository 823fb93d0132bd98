"""A backbone learns from images without labels: the loop, and all that runs only beside it."""
