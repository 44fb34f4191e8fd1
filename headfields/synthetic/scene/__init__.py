"""What a synthetic capture shows: a head with hair, mouth and skin, its motion and light, drawn by ray casting."""
