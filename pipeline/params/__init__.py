"""What params.yaml may say, a file a stage, and the one reader of it."""
