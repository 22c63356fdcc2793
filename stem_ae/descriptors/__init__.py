"""Windows of an image, and numbers that describe what they hold."""
