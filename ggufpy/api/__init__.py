"""Answers in the shapes of other programs' interfaces."""
