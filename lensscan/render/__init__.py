"""Arrays in, PNG out: colour images of stamps, contact sheets and curves."""
