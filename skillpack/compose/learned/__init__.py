"""Methods of composition that learn from texts; see docs/compose-learned.md."""
