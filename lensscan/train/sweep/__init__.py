"""Sweeps: many trainings with drawn settings, halved at rungs, shared by any number of processes over one journal."""
