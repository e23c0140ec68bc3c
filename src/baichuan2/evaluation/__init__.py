"""Benchmarks: questions from the user's own files, prompts by named recipes, scores with all that made them."""
