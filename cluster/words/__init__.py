"""Which words count where: class maps, regions, their labels and legend."""
