"""Tutelage: distil one small student from many large teachers."""

__version__ = "0.1.0"
