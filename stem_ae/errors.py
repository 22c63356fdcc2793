"""The one error that users read."""


class StemAeError(ValueError):
    """Something the user can put right.

    The message is one sentence that says what is wrong and what to do about it: panels show it as it is, the command
    line prints it after ``stem-ae:`` and exits with 2.
    """
