"""What is measured while a run goes on, and stands in its history."""
