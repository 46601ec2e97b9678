"""How noise becomes latents, step by step: pure functions of fields."""
