"""What goes wrong with a model, said in one line. Knows no family and no file format."""


class ModelError(ValueError):
    """A model cannot be found, read or used as asked; the message names the value and what is accepted."""


def first_line(error: Exception) -> str:
    """An error of a library as the end of one line of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
