"""Published layouts of models, each a folder that keeps to `protocol`: opened, and written."""
