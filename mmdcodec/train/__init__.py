"""Training: the loop, its state, checkpoints, metrics and tasks."""
