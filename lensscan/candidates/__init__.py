"""The ranked catalog: the format of OUT.h5 and what is done with it."""
