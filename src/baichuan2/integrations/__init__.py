"""Baichuan 2 inside other programs; each integration is loaded by the program that it is for."""
