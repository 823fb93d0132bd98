"""What a run goes on from after it was stopped."""
