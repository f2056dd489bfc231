"""Quantising a model: GPTQ and what makes it better."""
