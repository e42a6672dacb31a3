"""The errors that callers may catch; all of them are one clear line."""


class GGUFError(ValueError):
    """A file, or something asked of it, is wrong; the message names the field and says what to do."""
