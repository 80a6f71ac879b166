"""Settings and studies to start from."""
