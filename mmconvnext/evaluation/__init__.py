"""What is reported of an evaluation."""
