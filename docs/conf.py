"""Sphinx settings: ``sphinx-build docs OUT`` makes a web site of the pages (pip install 'lensscan[docs]')."""

project = "lensscan"
author = copyright = "The lensscan developers"
extensions = ["myst_parser"]
html_theme = "alabaster"
exclude_patterns = ["_build"]
suppress_warnings = ["myst.xref_missing"]
