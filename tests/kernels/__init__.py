"""Tests of the products with weights in few bits."""
