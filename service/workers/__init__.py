"""Several processes behind one port: a parent that supervises, workers that are each a whole server.

A worker has its own engine, event loop and places; it shares nothing with the others but the port. Knows no HTTP.
"""

from service.workers.listening import bind_all
from service.workers.member import Job, Member
from service.workers.supervisor import Supervisor

__all__ = ["Job", "Member", "Supervisor", "bind_all"]
