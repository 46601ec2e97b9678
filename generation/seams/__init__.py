"""Whether anything of the engine shows in a picture."""
