"""Removal of the lens galaxy's light: separation by colour (ICA), or a smooth model of one band."""
