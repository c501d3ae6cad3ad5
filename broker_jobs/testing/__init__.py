"""What users need in their tests, and ours use."""
