"""``feedloop up``: everything that feedloop needs, started on this machine by one command.

* ``services``: what is started, as a table
* ``ports``: where it listens
* ``place``: which settings and which folder it works with
* ``processes``: one program: started, ready, stopped without leaving anything behind
* ``up``: the command
"""
