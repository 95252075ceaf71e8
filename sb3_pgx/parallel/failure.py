"""An exception that goes from one process to another."""

import pickle


class Failure:
    """
    An exception on its way to another process.

    :param error: the exception; one whose class cannot be pickled arrives as a ``RuntimeError``
    :param rank: of the process in which it was raised
    """

    def __init__(self, error: BaseException, rank: int):
        self.kind, self.text, self.rank = type(error), str(error), rank
        try:
            pickle.dumps(self.kind)
        except Exception:  # it is defined in a function, for instance
            self.kind, self.text = RuntimeError, f"{type(error).__name__}: {error}"

    def error(self) -> BaseException:
        """Return the exception, with the number of its process in its text."""
        known = self.text.startswith("in process ")
        try:
            return self.kind(self.text if known else f"in process {self.rank}: {self.text}")
        except Exception:  # its constructor takes something else
            return RuntimeError(f"in process {self.rank}: {self.kind.__name__}: {self.text}")
