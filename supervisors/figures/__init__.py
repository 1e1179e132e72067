"""The figures of the engine: counters, histograms, states of requests, and alerts."""
