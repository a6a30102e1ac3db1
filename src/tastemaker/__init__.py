"""Tastemaker teaches language models what people prefer."""
