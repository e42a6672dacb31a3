"""Many requests of a file, answered into another, as OpenAI's batches have them: no HTTP, and no package for it.

`lines` reads the requests, `answers` keeps what was answered, `calls` says what a request's URL asks for, `run` does
all of it. A run that was killed goes on where it was: nothing is answered twice, and nothing is lost.
"""
