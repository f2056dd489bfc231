"""Pages for people: charts, style and templates. They ask for nothing from elsewhere."""
