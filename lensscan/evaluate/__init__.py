"""Evaluation of models on sealed test sets, with the published figures beside."""
