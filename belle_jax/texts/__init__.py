"""What one may ask of a text: how like another it is, its language, whether it passes a filter."""
