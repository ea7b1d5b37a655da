"""HRM-Bench: does the Hierarchical Reasoning Model beat a fairly matched transformer, where, and at what compute?"""

__version__ = "0.1.0"
