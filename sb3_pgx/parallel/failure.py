"""An exception that goes from one process to another."""


class Failure:
    """
    An exception on its way to another process.

    :param error: the exception; one that cannot be pickled is replaced by its text
    :param rank: of the process in which it was raised
    """

    def __init__(self, error: Exception, rank: int):
        self.kind, self.text, self.rank = type(error), str(error), rank

    def error(self) -> Exception:
        """Return the exception, with the number of its process in its text."""
        text = self.text if self.text.startswith("in process ") else f"in process {self.rank}: {self.text}"
        try:
            return self.kind(text)
        except TypeError:
            return RuntimeError(f"{self.kind.__name__} {text}")
