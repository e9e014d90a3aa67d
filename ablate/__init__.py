"""Runs studies: plans, executes, logs, shows. Owns every framework."""
