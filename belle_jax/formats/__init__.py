"""Published layouts of models, each keeping to `protocol`: opened, and written."""
