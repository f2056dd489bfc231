"""Evaluation: questions, judges, verdicts, and what may be concluded from them. Imports no JAX."""
