"""Benchmarks of speed, memory and resumption; ``make bench`` runs those of docs/performance.md."""
