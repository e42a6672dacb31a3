"""What a model is worth: perplexity, divergence from another, importance of its weights."""
