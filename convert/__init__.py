"""Programs that bring models from one format to another."""
