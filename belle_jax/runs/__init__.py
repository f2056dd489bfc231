"""The run directory: its layout, checkpoints written and read, where it came from, its card."""
