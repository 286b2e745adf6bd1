"""Experiments that one command runs from data to table."""
