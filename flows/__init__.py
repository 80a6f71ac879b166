"""Order only: each flow is a paragraph of tasks.  The effects are in ``tasks``, the decisions in ``ranking``."""
