"""Measurements that print a table. Nothing here is a test."""
