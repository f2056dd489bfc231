"""The run directory: its layout, checkpoints written and read, from and to published models."""
