"""Recipes: one flat file each, runnable as it stands."""
