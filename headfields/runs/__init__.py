"""What every long job shares: folder, lock, interrupts, checkpoint and randomness."""
