"""Other methods, written from their definitions."""
