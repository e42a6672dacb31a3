"""OpenAI's Responses as completions have it elsewhere: items become messages (`items`), tools of several kinds become
functions (`tools`), and what the model says becomes items again, with the events of a stream (`output`, `shape`).

Shapes are those of the openai package's types (openai/types/responses).
"""
