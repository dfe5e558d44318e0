"""The command line: one small module per command, argument parsing and printing only."""
