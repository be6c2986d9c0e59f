"""What is known of a detector without running it on data."""
