"""A model as its difference from another: BELLE's XOR files, and deltas."""
