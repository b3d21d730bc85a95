"""Encoders: their weights in and out, and vectors of packed rows."""
