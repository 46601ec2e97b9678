"""What lies where: regions, scenes, shapes."""
