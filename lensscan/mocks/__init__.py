"""Simulated survey stamps with truth: a pure function of recipe, seed and index, batched on any device."""
