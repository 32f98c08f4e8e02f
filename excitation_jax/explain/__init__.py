"""The calls: from a model function, its parameters and a target to maps, tables and reports."""
