"""What happens while a detector is trained: hooks, loops, checkpoints."""
