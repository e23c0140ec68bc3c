"""Weights in fewer bits: knows tensors and linear layers, nothing about Baichuan."""
