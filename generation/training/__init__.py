"""Training of small latent diffusion models. Nothing here runs during generation."""
