"""Personal data: finding it, and putting tags or fakes in its place."""
