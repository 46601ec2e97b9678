"""How good a trained model is: figures that anyone can compute again. Nothing here runs during generation."""
