"""Training: objectives, the optimiser, the step, checkpoints, metrics, and the loop that joins them."""
