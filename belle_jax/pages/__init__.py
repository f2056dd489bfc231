"""Pages for people. They ask for nothing from elsewhere."""
