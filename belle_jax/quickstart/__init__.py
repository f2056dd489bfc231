"""The quickstart: a small LLaMA, from nothing to answers in a few minutes on a CPU."""
