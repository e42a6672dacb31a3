"""Families of models whose syntax is known. A module here has `syntax(shown, architecture) -> Syntax | None`."""
