"""What `ggufpy chat` is made of.

`session` holds the conversation and answers messages, `slash` has the /commands, `settings` what /params changes.
`terminal` and `lines` bring messages in, `screen` and `plain` show answers; `blocks` and `markdown` are how Markdown
comes to the screen while it is written.
"""
