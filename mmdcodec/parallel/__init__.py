"""Devices: start-up, mesh, sharding rules, ahead-of-time compilation."""
