"""Published networks, one module each: the calibrators that our own networks are measured against."""
