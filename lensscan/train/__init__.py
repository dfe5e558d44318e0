"""Training: the loop, its losses and augmentation, distributed engines, checkpoints, and the finishing touches."""
