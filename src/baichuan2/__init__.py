"""Baichuan 2 on today's libraries."""

__version__ = "0.1.0"
