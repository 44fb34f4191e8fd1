"""FLAME (Li et al. 2017): the head model, its published files, and their conversion to one npz."""
