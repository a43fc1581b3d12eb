"""Tests against llama.cpp."""
