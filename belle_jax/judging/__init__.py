"""Evaluation: questions, judges and what they say, statistics, reports. Imports no JAX."""
