"""Denoising: where patches lie, how they count, what the solver does."""
