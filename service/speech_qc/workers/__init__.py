"""Several processes behind one port: a parent that supervises and accepts, and workers, each of them a whole server.

Each worker has its own engine, event loop and places. The workers share only the port: the parent accepts connections
and passes each one to a worker. Independent of HTTP.
"""

from speech_qc.workers.fd_passing import ConnectionReceiver
from speech_qc.workers.member import Job, Member
from speech_qc.workers.supervisor import Supervisor

__all__ = ["ConnectionReceiver", "Job", "Member", "Supervisor"]
