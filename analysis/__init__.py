"""Reads the ledger and derives: standings, curves, reports. Writes nothing to it."""
