"""Runnable entry points: they wire configuration to the library and write what comes out."""
