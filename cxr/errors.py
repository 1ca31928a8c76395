"""The one exception for input that a person can put right."""


class InputError(ValueError):
    """Bad input: the message says what is wrong, where, and what to do. The command line exits with 2."""
