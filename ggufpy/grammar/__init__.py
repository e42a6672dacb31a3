"""What a text may look like: JSON schemas, GBNF, regular expressions, Lark; tokens that may come next."""
