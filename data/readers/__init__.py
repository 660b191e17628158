"""Readers of the bytes of data sets: published files, archives, image folders, downloads."""
