"""The one exception that means "what you gave me cannot be used", as opposed to a fault in the program."""


class InputError(ValueError):
    """A file or value that a user gave cannot be used.

    The message is one line that names the file or the value, and the remedy. The commands print it on stderr and
    exit with status 2; anything else that is raised is a bug and keeps its traceback.
    """


def one_line(text: str, longest: int = 400) -> str:
    """Text that may come from a file, fit for a terminal: no line feeds, no escapes, not too long."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= longest else text[:longest] + "..."
