"""Several processes behind one port: a parent that supervises and accepts, workers that are each a whole server.

A worker has its own engine, event loop and places; it shares nothing with the others but the port, whose connections
the parent gives away one by one. Knows no HTTP.
"""

from speech_qc.workers.fd_passing import ConnectionReceiver
from speech_qc.workers.member import Job, Member
from speech_qc.workers.supervisor import Supervisor

__all__ = ["ConnectionReceiver", "Job", "Member", "Supervisor"]
