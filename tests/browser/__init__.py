"""Tests in a real browser; a package, so that browser and system end with its last test."""
