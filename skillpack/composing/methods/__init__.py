"""Methods of composition that need no data, one file each."""
