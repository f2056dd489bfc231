"""Published layouts of models, each a file or folder that keeps to `protocol`: opened, and written."""
