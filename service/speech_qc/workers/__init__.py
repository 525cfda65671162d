"""Several processes behind one port: a parent that supervises and accepts, workers that are each a whole server.

A worker has its own engine, event loop and places; it shares nothing with the others but the port, whose connections
the parent gives away one by one. Knows no HTTP.
"""

from service.workers.handover import Taker
from service.workers.member import Job, Member
from service.workers.supervisor import Supervisor

__all__ = ["Job", "Member", "Supervisor", "Taker"]
