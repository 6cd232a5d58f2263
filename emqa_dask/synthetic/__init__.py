"""Micrographs with known answers: cavities, particles, lattices, textures, and faults."""
